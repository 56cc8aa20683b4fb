"""What a user can get wrong, each with its kind, its exit code, at most three lines, and nothing built.

The numbers are those of the table of bad inputs that the project keeps: specification, templates, models, prompts.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Run = Callable[..., "CompletedProcess[str]"]
Prepare = Callable[[Path], None]

TINY = ("model=llama", "model.scale=tiny")
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 32,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "eos_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    number: str
    words: tuple[str, ...]
    kind: str
    exit_code: int = 2
    says: str = ""
    files: dict[str, str | bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.number} {self.kind}"


def plan(number: str, *words: str, kind: str, **more: Any) -> Row:
    return Row(number, ("plan", *words), kind, **more)


def conf(number: str, text: str | bytes, kind: str, **more: Any) -> Row:
    """A user's own conf/quantization/mine.yaml with `text` in it."""
    files = {"conf/quantization/mine.yaml": text}
    return Row(number, ("plan", "quantization=mine"), kind, files=files, **more)


def folder(number: str, kind: str, config: Any = LLAMA, weights: bytes | None = None, **more: Any) -> Row:
    """A model folder `m` with this config.json and these weights."""
    text = config if isinstance(config, str) else json.dumps(config)
    files: dict[str, str | bytes] = {"m/config.json": text, **more.pop("files", {})}
    if weights is not None:
        files["m/model.safetensors"] = weights
    words = ("build", "model=hf", "model.path=m", "specialization.ctx_len=32")
    return Row(number, (*words, *more.pop("words", ())), kind, files=files, **more)


def safetensors(header: dict[str, Any], size: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def entry(shape: list[int], start: int) -> dict[str, Any]:
    size = 4
    for dim in shape:
        size *= dim
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, start + size]}


SPECIFICATION = [
    plan("1", "specialization.ctx_len=-1", kind="spec.range", says="ctx_len"),
    plan("2", "specialization.ctx_len=0", kind="spec.range", says="ctx_len"),
    plan("3", "specialization.ctx_len=1000000000000", kind="spec.range", says="ctx_len"),
    plan("4a", "specialization.ctx_len=32.5", kind="spec.type", says="ctx_len"),
    plan("4b", "specialization.ctx_len=abc", kind="spec.type", says="ctx_len"),
    plan("4c", "specialization.ctx_len=null", kind="spec.type", says="ctx_len"),
    plan("5a", "specialization.ctx_len=nan", kind="spec.type", says="ctx_len"),
    plan("5b", "specialization.ctx_len=inf", kind="spec.type", says="ctx_len"),
    plan("6", "specialization.ctx_len=4096", kind="spec.range", says="512"),
    plan("7", "specialization.prefill_seq_len=-8", kind="spec.range", says="prefill_seq_len"),
    plan("8", "specialization.prefill_seq_len=256", kind="spec.conflict", says="prefill_seq_len"),
    plan("9", "specialization.batch_size=0", kind="spec.range", says="batch_size"),
    plan("10", "specialization.full_batch_size=4", "specialization.continuous_batching=false", kind="spec.conflict"),
    plan("11", "specialization.continuous_batching=true", kind="spec.missing", says="full_batch_size"),
    plan("12", "specialization.full_batch_size=0", kind="spec.range", says="full_batch_size"),
    plan("13", "device_group.num_devices=-2", kind="spec.range", says="num_devices"),
    plan("14", "model=llama", "model.num_key_value_heads=4", "backend=qaic", "device_group.devices=[0,1,2]", kind="spec.divides"),
    plan("15", "backend=qaic", "device_group.devices=[0,0]", kind="device.duplicate"),
    plan("17a", "backend=qaic", "backend.num_cores=0", kind="spec.range", says="num_cores"),
    plan("17b", "backend=qaic", "backend.num_cores=10000", kind="spec.range", says="num_cores"),
    plan("18", "recipe=gpt2_notebook", "device_group.devices=[0,1]", "device_group.mdp_num_partitions=99", kind="spec.range"),
    plan("19a", "specialization.num_speculative_tokens=-1", kind="spec.range"),
    plan("19b", "specialization.num_speculative_tokens=3", kind="spec.conflict"),
    plan("20", "quantization.mxfp6_matmul=true", kind="spec.conflict", says="mxfp6"),
    plan("24", "ctxlen=64", kind="override.unknown"),
    plan("24b", "specialization.ctxlen=64", kind="override.unknown", says="ctx_len"),
    conf("25", "method: int8\nblok_size: 32\n", "spec.unknown", says="block_size"),
    plan("26", "model=nosuch", kind="override.choice"),
    plan("27", "+specialization.ctx_len=1", kind="override.exists"),
    plan("28a", "prompts=[1,2", kind="override.syntax"),
    plan("28b", "out=${a", kind="override.syntax"),
    Row("29", ("plan", "-m", "specialization.ctx_len=64,128,"), "override.syntax"),
    Row("30", ("plan", "-m", "decoding.seed=range(0,100000)"), "sweep.size"),
    plan("31", "model=../../evil/b", kind="override.path"),
    plan("32", "--config-name=../x", kind="override.path"),
    plan("33", "hydra.run.dir=../x", kind="path.outside"),
    plan("34", "+model._target_=os.system", kind="spec.forbidden"),
    conf("34b", "method: int8\n_target_: os.system\n", "spec.forbidden"),
    plan("35", "out=${oc.env:SECRET}", kind="spec.resolver"),
    plan("36", "out=${oc.env:NO_SUCH_VARIABLE}", kind="spec.resolver"),
    conf("37", "method: ${.bits}\nbits: ${.method}\n", "spec.cycle"),
    conf("38", "method: int8\nmethod: int4\n", "spec.duplicate", says="mine.yaml"),
    conf("39", "method: !!python/object/apply:os.system [id]\n", "spec.tag"),
    conf("40", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ) + "method: int8\n", "spec.size"),
    conf("41a", b"method: \xff\xfe\n", "spec.text"),
    plan("41b", "model=gpt\u202e2", kind="spec.text"),
    plan("42", "model.id=on", "model=hf", kind="spec.type"),
    plan("42b", "specialization.ctx_len=1e3", kind="spec.type"),
]  # fmt: skip

MODELS = [
    plan("49", "model=hf", "model.path=nowhere", kind="model.absent", says="nowhere"),
    plan("50a", "model=hf", "model.id=../../etc", kind="model.name"),
    plan("50b", "model=hf", "model.id=/etc/passwd", kind="model.name"),
    plan("51", "--frozen", "model=hf", "model.id=org/name", "model.revision=main", kind="model.revision"),
    folder("52a", "model.unsupported", config={**LLAMA, "model_type": "no_such_model", "architectures": ["X"]}),
    folder("52b", "model.unsupported", config={k: v for k, v in LLAMA.items() if k not in ("model_type", "architectures")}),
    folder("53", "model.task", config={**LLAMA, "model_type": "bert", "architectures": ["BertModel"]}, weights=safetensors({}, 0)),
    folder("54", "model.config", config='{"model_type": "llama", "hidden', says="config.json:1"),
    folder("55a", "model.config", config={**LLAMA, "hidden_size": 17}, weights=safetensors({}, 0)),
    folder("55b", "model.config", config={**LLAMA, "num_hidden_layers": -1}, weights=safetensors({}, 0)),
    folder("57", "model.weights", weights=safetensors({"model.norm.weight": entry([16], 0)}, 64)),
    folder("58a", "model.weights", weights=safetensors({"x": entry([16], 0)}, 10)),
    folder("58b", "model.weights", weights=b""),
    folder("58c", "model.weights", weights=struct.pack("<Q", 1 << 62) + b"{}"),
    folder("58d", "model.weights", weights=safetensors({"x": entry([16], 0), "y": entry([16], 32)}, 96)),
    folder("59a", "model.weights", files={"m/model.safetensors.index.json": json.dumps({"weight_map": {"x": "gone.safetensors"}})}),
    folder("59b", "path.outside", files={"m/model.safetensors.index.json": json.dumps({"weight_map": {"x": "../secret.safetensors"}})}),
    folder("61", "model.pickle", files={"m/pytorch_model.bin": b"\x80\x02."}),
    folder("62", "model.code", config={**LLAMA, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}, files={"m/evil.py": "raise SystemExit(7)\n"}, weights=safetensors({}, 0)),
]  # fmt: skip

OTHERS = [
    Row("verb", ("biuld",), "verb.unknown", says="build"),
    plan("68a", "backend=qaic", "backend.extra_args=['-m=/etc/passwd']", kind="backend.option"),
    plan("68b", "backend=qaic", "backend.extra_args=['-aic-binary-dir=/tmp/x']", kind="backend.option"),
    Row("70", ("build", *TINY, "backend=qaic", "specialization.ctx_len=32"), "backend.absent", exit_code=3),
    Row("72a", ("run", "prompts_file=gone.txt"), "run.prompt"),
    Row("72b", ("run", "prompts_file=empty.txt"), "run.prompt", files={"empty.txt": ""}),
    Row("to", ("build", "--to", "moon"), "spec.choice"),
]


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("row", [*SPECIFICATION, *MODELS, *OTHERS], ids=str)
def test_bad_input_is_refused_in_one_line(row: Row, qeffbuild: Run, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    write(project, row.files)
    before = tree(project)

    done = qeffbuild(*row.words, cwd=project, env={"SECRET": "s3cr3t", "HF_HUB_OFFLINE": "1"})

    lines = [line for line in done.stderr.splitlines() if not line.startswith("notice")]
    errors = [line for line in lines if line.startswith("error[")]
    assert errors, done.stderr
    assert errors[0].startswith(f"error[{row.kind}]: "), done.stderr
    assert done.returncode == row.exit_code
    assert row.says in done.stderr
    assert "s3cr3t" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert len(lines[lines.index(errors[0]) :]) <= 3, done.stderr
    assert tree(project) - before <= {"outputs"}


@pytest.mark.slow
def test_bad_input_is_one_json_document_under_json(qeffbuild: Run) -> None:
    done = qeffbuild("plan", "specialization.ctx_len=-1", "--json")

    said = json.loads(done.stdout)
    assert set(said) == {"schema", "error"}
    assert set(said["error"]) == {"kind", "message", "where", "hint"}
    assert said["error"]["kind"] == "spec.range"


@pytest.mark.slow
def test_a_prompt_longer_than_the_context_is_refused(qeffbuild: Run) -> None:
    done = qeffbuild("run", f"prompts=['{'and ' * 300}']")

    assert done.returncode == 2
    assert "error[run.prompt]" in done.stderr
