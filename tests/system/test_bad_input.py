"""What a user can get wrong, each with its kind, its exit code, at most three lines, and nothing built.

The numbers are those of the table of bad inputs that the project keeps: here the specification, the words of the
command line and models; templates, weights, packages and the cache are in test_bad_input_runtime.py.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from refusals import Call, Row, conf, entry, expect_refusal, plan, safetensors

SDK = ("backend=qnn", "backend.target=aic")
TINY = ("model=llama", "model.scale=tiny")
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 32,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "eos_token_id": 2,
}  # fmt: skip
_PART = "model.layers.0.self_attn.q_proj"
GPTQ: dict[str, Any] = {  # one matrix, stored in 4 bits
    f"{_PART}.qweight": {"dtype": "I32", "shape": [2, 16], "data_offsets": [0, 128]},
    f"{_PART}.qzeros": {"dtype": "I32", "shape": [1, 2], "data_offsets": [128, 136]},
    f"{_PART}.scales": {"dtype": "F16", "shape": [1, 16], "data_offsets": [136, 168]},
    f"{_PART}.g_idx": {"dtype": "I32", "shape": [16], "data_offsets": [168, 232]},
    "model.norm.weight": {"dtype": "F32", "shape": [32], "data_offsets": [232, 360]},
}


def folder(number: str, kind: str, config: Any = LLAMA, weights: bytes | None = None, **more: Any) -> Row:
    """A model folder with this config.json and these weights."""
    text = config if isinstance(config, str) else json.dumps(config)
    place = f"model_{number}"
    files = {f"{place}/{name}": content for name, content in {"config.json": text, **more.pop("files", {})}.items()}
    if weights is not None:
        files[f"{place}/model.safetensors"] = weights
    words = ("build", "model=hf", f"model.path={place}", "specialization.ctx_len=32", *more.pop("words", ()))
    return Row(number, words, kind, files=files, **more)


SPECIFICATION = [
    plan("1", "specialization.ctx_len=-1", kind="spec.range", says="ctx_len"),
    plan("2", "specialization.ctx_len=0", kind="spec.range", says="ctx_len"),
    plan("3", "specialization.ctx_len=1000000000000", kind="spec.range", says="ctx_len", alone=True),
    plan("4a", "specialization.ctx_len=32.5", kind="spec.type", says="ctx_len"),
    plan("4b", "specialization.ctx_len=abc", kind="spec.type", says="ctx_len"),
    plan("4c", "specialization.ctx_len=null", kind="spec.type", says="ctx_len"),
    plan("5a", "specialization.ctx_len=nan", kind="spec.type", says="ctx_len"),
    plan("5b", "specialization.ctx_len=inf", kind="spec.type", says="ctx_len"),
    plan("6", "specialization.ctx_len=4096", kind="spec.range", says="512"),
    plan("7", "specialization.prefill_seq_len=-8", kind="spec.range", says="prefill_seq_len"),
    plan("7b", "specialization.prefill_seq_len=0", kind="spec.range", says="prefill_seq_len"),
    plan("8", "specialization.prefill_seq_len=256", kind="spec.conflict", says="prefill_seq_len"),
    plan("9", "specialization.batch_size=0", kind="spec.range", says="batch_size"),
    plan("9b", "specialization.batch_size=-1", kind="spec.range", says="batch_size"),
    plan("10", "specialization.full_batch_size=4", "specialization.continuous_batching=false", kind="spec.conflict"),
    plan("11", "specialization.continuous_batching=true", kind="spec.missing", says="full_batch_size"),
    plan("12", "specialization.full_batch_size=0", kind="spec.range", says="full_batch_size"),
    plan("13", "device_group.num_devices=-2", kind="spec.range", says="num_devices"),
    plan("13b", "device_group.num_devices=0", kind="spec.range", says="num_devices"),
    plan("14", "model=llama", "model.num_key_value_heads=4", "backend=qaic", "device_group.devices=[0,1,2]", kind="spec.divides"),
    plan("15", "backend=qaic", "device_group.devices=[0,0]", kind="device.duplicate"),
    Row("16", ("run", "backend=qaic", "device_group.devices=[1,7]"), "device.absent", exit_code=3, says="device 7 is not there; there are 0, 1"),
    plan("17a", "backend=qaic", "backend.num_cores=0", kind="spec.range", says="num_cores"),
    plan("17b", "backend=qaic", "backend.num_cores=10000", kind="spec.range", says="num_cores"),
    plan("18", "recipe=gpt2_notebook", "device_group.devices=[0,1]", "device_group.mdp_num_partitions=99", kind="spec.range"),
    plan("19a", "specialization.num_speculative_tokens=-1", kind="spec.range"),
    plan("19b", "specialization.num_speculative_tokens=3", "specialization.prefill_only=true", kind="spec.conflict"),
    plan("19c", "backend=qaic", "specialization.num_speculative_tokens=[2,2]", kind="spec.duplicate"),
    plan("19d", "model=minilm", "model.scale=tiny", "specialization.num_speculative_tokens=3", kind="spec.conflict", says="only causal-lm"),
    plan("20c", "backend=qaic", "quantization=fp8", kind="spec.conflict", says="quantization.method"),
    plan("20a", "quantization.mxfp6_matmul=true", kind="spec.conflict", says="mxfp6"),
    plan("21", "adapters={a:lora}", kind="model.adapter", says="lora", files={"lora/adapter_config.json": "{}"}),
    plan("22", "+adapters.a=one", "+adapters.a=two", kind="override.exists", says="adapters.a"),
    plan("22b", "adapters={a:one,a:two}", kind="spec.duplicate", says="'a' twice"),
    Row("22c", ("plan", "adapters=mine"), "spec.range", says="1024", files={"conf/adapters/mine.yaml": "".join(f"a{n}: one\n" for n in range(1025))}),
    plan("22d", "adapters={base:one}", kind="spec.text", says="base"),
    plan("23a", "specialization.comp_ctx_lengths_decode=[64,64]", kind="spec.duplicate", says="64"),
    plan("23b", "device_group.devices=[]", kind="spec.empty", says="devices"),
    plan("23c", "specialization.seq_len=[8,16,8]", kind="spec.duplicate", says="8 is listed twice"),
    plan("23d", "model=llama", "backend=qaic", "specialization.ctx_len=4096", "specialization.comp_ctx_lengths_prefill=[2048,1024]", "specialization.comp_ctx_lengths_decode=[4096]", kind="spec.conflict", says="comp_ctx_lengths"),
    plan("24", "ctxlen=64", kind="override.unknown", says="specialization.ctx_len=64"),
    plan("24b", "specialization.ctxlen=64", kind="override.unknown", says="ctx_len"),
    conf("25", "method: int8\nblok_size: 32\n", "spec.unknown", says="block_size"),
    plan("26", "model=nosuch", kind="override.choice"),
    plan("27", "+specialization.ctx_len=1", kind="override.exists"),
    plan("28a", "prompts=[1,2", kind="override.syntax", says="column 9", alone=True),
    plan("28b", "out=${a", kind="override.syntax", says="column 6"),
    Row("29", ("plan", "-m", "specialization.ctx_len=64,128,"), "override.syntax"),
    Row("30", ("plan", "-m", "decoding.seed=range(0,100000)"), "sweep.size"),
    plan("31", "model=../../evil/b", kind="override.path"),
    plan("32a", "--config-name=../x", kind="override.path"),
    plan("32b", "--config-dir=/tmp", kind="override.path"),
    plan("32c", "hydra.searchpath=[file:///tmp]", kind="override.path"),
    plan("33a", "hydra.run.dir=../x", kind="path.outside"),
    Row("33b", ("build", "out=../x"), "path.outside", says="--allow-outside"),
    Row("33c", ("emit", "backend=qaic", "out=/nowhere/x"), "path.outside", says="--allow-outside"),
    plan("34", "+model._target_=os.system", kind="spec.forbidden"),
    conf("34b", "method: int8\n_target_: os.system\n", "spec.forbidden"),
    plan("35", "out=${oc.env:SECRET}", kind="spec.resolver", alone=True),
    plan("36", "out=${oc.env:NO_SUCH_VARIABLE}", kind="spec.resolver"),
    conf("37", "method: ${.bits}\nbits: ${.method}\n", "spec.cycle"),
    conf("38", "method: int8\nmethod: int4\n", "spec.duplicate", says="mine.yaml"),
    conf("39", "method: !!python/object/apply:os.system [id]\n", "spec.tag"),
    conf("40", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ) + "method: int8\n", "spec.size"),
    conf("41a", b"method: \xff\xfe\n", "spec.text"),
    plan("41b", "model=gpt\u202e2", kind="spec.text"),
    conf("41c", b"method: \"a\x00b\"\n", "spec.text"),
    plan("42a", "model.trust_remote_code=on", kind="spec.type", says="true or false"),
    plan("42b", "specialization.ctx_len=1e3", kind="spec.type", says="ctx_len"),
    conf("42c", "method: int8\nsymmetric: no\n", "spec.type", says="mine.yaml"),
    conf("42d", "method: int8\nblock_size: 1e3\n", "spec.range", says="block_size"),
]  # fmt: skip

MODELS = [
    plan("49", "model=hf", "model.path=nowhere", kind="model.absent", says="nowhere"),
    plan("50a", "model=hf", "model.id=../../etc", kind="model.name"),
    plan("50b", "model=hf", "model.id=/etc/passwd", kind="model.name"),
    plan("51", "--frozen", "model=hf", "model.id=org/name", "model.revision=main", kind="model.revision"),
    folder("52a", "model.unsupported", config={**LLAMA, "model_type": "no_such_model", "architectures": ["X"]}),
    folder("52b", "model.unsupported", config={k: v for k, v in LLAMA.items() if k not in ("model_type", "architectures")}),
    folder("53", "model.task", config={**LLAMA, "model_type": "bert", "architectures": ["BertModel"]}, weights=safetensors({}, 0), words=("model.task=causal-lm",)),
    folder("54", "model.config", config='{"model_type": "llama", "hidden', says="config.json:1", alone=True),
    folder("55a", "model.config", config={**LLAMA, "hidden_size": 17}, weights=safetensors({}, 0)),
    folder("55b", "model.config", config={**LLAMA, "num_hidden_layers": -1}, weights=safetensors({}, 0)),
    folder("20b", "model.unsupported", config={**LLAMA, "quantization_config": {"quant_method": "gptq"}}, weights=safetensors({}, 0), words=("backend=qaic", "quantization=mxfp6"), says="gptq"),
    folder("20d", "spec.conflict", config={**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 16}}, weights=safetensors(GPTQ, 360), words=("backend=qaic", "quantization=mxfp6"), says="quantized already (gptq)"),
    folder("57", "model.weights", weights=safetensors({"model.norm.weight": entry([16], 0)}, 64)),
    folder("58a", "model.weights", weights=safetensors({"x": entry([16], 0)}, 10)),
    folder("58b", "model.weights", weights=b""),
    folder("58c", "model.weights", weights=struct.pack("<Q", 1 << 62) + b"{}"),
    folder("58d", "model.weights", weights=safetensors({"x": entry([16], 0), "y": entry([16], 32)}, 96)),
    folder("59a", "model.weights", files={"model.safetensors.index.json": json.dumps({"weight_map": {"x": "gone.safetensors"}})}),
    folder("59b", "path.outside", files={"model.safetensors.index.json": json.dumps({"weight_map": {"x": "../secret.safetensors"}})}),
    folder("61", "model.pickle", files={"pytorch_model.bin": b"\x80\x02."}),
    folder("59c", "model.weights", files={"model.safetensors.index.json": "[]"}),
    folder("62b", "model.code", files={"tokenizer_config.json": json.dumps({"auto_map": {"AutoTokenizer": ["evil.T", None]}}), "evil.py": "raise SystemExit(7)\n"}, weights=safetensors({}, 0)),
    plan("62c", "model=hf", "model.id=org/name", "model.revision=main", "model.trust_remote_code=true", kind="model.revision"),
    folder("62a", "model.code", config={**LLAMA, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}, files={"evil.py": "raise SystemExit(7)\n"}, weights=safetensors({}, 0)),
]  # fmt: skip

OTHERS = [
    Row("verb", ("biuld",), "verb.unknown", says="build"),
    plan("68a", "backend=qaic", "backend.extra_args=['-m=/etc/passwd']", kind="backend.option"),
    plan("68c", "backend=qaic", "backend.extra_args=['-a=b\nc']", kind="backend.option"),
    plan("68d", "backend=qaic", "backend.extra_args=['mos=3']", kind="backend.option"),
    plan("68e", "backend=qaic", "backend.mos=many", kind="spec.type", says="backend.mos"),
    plan("68f", "backend=qaic", "backend.nosuch=1", kind="override.unknown", says="backend.nosuch"),
    plan("68g", "backend=qaic", "backend.extra_args=['-AIC_num-cores=3']", kind="backend.option", says="said again"),
    plan("68h", "backend=qaic", "backend.kv_cache_prefix=a/b", kind="backend.option", says="letters and digits"),
    plan(
        "69l",
        "model=llama",
        "backend=qaic",
        "device_group.num_devices=4",
        "device_group.mdp_num_partitions=2",
        "backend.mdp_strategy=intersection",
        "backend.mdp_compiler_dump_path=gone.json",
        kind="backend.file",
        says="gone.json",
    ),
    plan("69d", *SDK, "backend.config=gone.json", kind="backend.file", says="gone.json"),
    plan("69e", *SDK, "backend.config=mine.json", kind="backend.file", says="not JSON", files={"mine.json": "{"}),
    plan(
        "69f",
        *SDK,
        "backend.config=mine.json",
        kind="backend.option",
        says="nosuch",
        files={"mine.json": '{"nosuch": 1}'},
    ),
    plan(
        "69g",
        *SDK,
        "backend.config=mine.json",
        kind="backend.option",
        says="--input_network",
        files={"mine.json": '{"converter_args_extension": "--input_network x"}'},
    ),
    plan("69h", *SDK, "backend.dlc_file=gone.dlc", kind="backend.file", says="gone.dlc"),
    plan("69i", *SDK, "backend.templates=gone", kind="backend.file", says="no folder"),
    plan("69j", "backend=qaic", "backend.templates=gone", kind="backend.file", says="no folder"),
    plan(
        "69k",
        "backend=qnn",
        "backend.precision=a16w8",
        "backend.calibration_file=gone.txt",
        kind="backend.file",
        says="gone.txt",
    ),
    Row("70c", ("build", *SDK), "backend.absent", exit_code=3, says="QNN SDK"),
    plan("70d", "backend=qaic", "backend.sdk_version=new", kind="backend.option", says="no version"),
    plan("70e", "backend=qaic", "backend.sdk_version=probe", kind="backend.absent", exit_code=3, says="no SDK"),
    plan("70f", "backend=qaic", "backend.aic_hw_version=probe", kind="backend.absent", exit_code=3, says="qaic-util"),
    plan("70g", "backend=qaic", "backend.aic_hw_version=ai900", kind="spec.choice", says="ai100"),
    plan("70h", "backend=qaic", "backend.compiler=gone", kind="backend.absent", exit_code=3, says="gone"),
    Row("70i", ("run", "backend=qaic", "device_group.num_devices=1"), "backend.absent", exit_code=3, says="compiler"),
    plan("68b", "backend=qaic", "backend.extra_args=['-aic-binary-dir=/tmp/x']", kind="backend.option"),
    Row("72a", ("run", "prompts_file=gone.txt"), "run.prompt"),
    Row("72b", ("run", "prompts_file=empty.txt"), "run.prompt", files={"empty.txt": ""}),
    Row("escape", ("plan", "\x1b[31mred"), "verb.unknown", says="\\x1b[31mred"),
    Row("bytes", ("plan", "--json", "\udcff"), "verb.unknown", says="\\udcff"),
    Row("cfg", ("plan", "--cfg", "nosuch"), "flag.value", says="hydra"),
    Row("info", ("plan", "--info=nosuch"), "flag.value", says="plugins"),
    Row("to", ("build", "--to", "moon"), "flag.value", says="package"),
]


@pytest.fixture(autouse=True)
def binding(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The driver's binding is played, and sees the devices 0 and 1."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "backends" / "qaic" / "played_sdk"))
    yield
    for name in ("qaicrt", "QAicApi_pb2"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("row", [*SPECIFICATION, *MODELS, *OTHERS], ids=str)
def test_bad_input_is_refused_in_one_line(row: Row, call: Call, tmp_path: Path) -> None:
    expect_refusal(row, call, tmp_path)


def test_bad_input_is_one_json_document_under_json(call: Call, tmp_path: Path) -> None:
    row = plan("json", "specialization.ctx_len=-1", "--json", kind="spec.range")

    said = json.loads(expect_refusal(row, call, tmp_path).stdout)

    assert set(said) == {"schema", "error"}
    assert set(said["error"]) == {"kind", "message", "where", "hint"}
    assert said["error"]["kind"] == "spec.range"
