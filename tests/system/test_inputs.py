"""What the result of a real build depends on is in its keys, and nothing else is: on a copy of the demo's own folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from qeffbuild import api, paths, world
from qeffbuild.backends.qaic import plan as compiler_plan
from qeffbuild.paths import HERE
from qeffbuild.report import installed

Run = Callable[..., "CompletedProcess[str]"]
DEMO = HERE / "models" / "demo"
WORDS = ("device_group=one", "quantization=int8")
QAIC = ("backend=qaic", "device_group=one")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def keys(folder: Path, *words: str) -> dict[str, str]:
    """The deep key of every step of the build that these words mean."""
    spec = api.compose(["model=hf", f"model.path={folder}", *(words or WORDS)], conf_dirs=())
    return {step.step.name: step.key.digest for step in api.plan(spec).steps}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def set_config(**values: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(said | values))

    return edit


def bit(name: str, at: int) -> Callable[[Path], None]:
    return lambda folder: flip(folder / name, at)


def text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        said = (folder / name).read_text()
        assert old in said
        (folder / name).write_text(said.replace(old, new, 1))

    return edit


FILES: dict[str, Callable[[Path], None]] = {
    **{f"bit of weight byte {at}": bit("model.safetensors", at) for at in (-1, -2, -1001, -100_001, -2_000_001)},
    "epsilon of the norms": set_config(layer_norm_epsilon=1e-6),
    "activation": set_config(activation_function="relu"),
    "end of sequence": set_config(eos_token_id=7),
    "scaled attention": set_config(scale_attn_weights=False),
    "generation defaults": text("generation_config.json", "{", '{"bos_token_id": 3, '),
    "no generation defaults": lambda folder: (folder / "generation_config.json").unlink(),
    "tokenizer vocabulary": text("tokenizer.json", '"model"', ' "model"'),
    "tokenizer configuration": text("tokenizer_config.json", "{", '{"padding_side": "right", '),
    "one more tokenizer file": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
}  # fmt: skip


@pytest.mark.parametrize("edit", FILES.values(), ids=FILES)
def test_every_file_of_the_model_counts(folder: Path, edit: Callable[[Path], None]) -> None:
    before = keys(folder)
    edit(folder)

    assert keys(folder)["package"] != before["package"]


@pytest.mark.parametrize(
    "word",
    [
        "specialization.ctx_len=96", "specialization.prefill_seq_len=16", "specialization.batch_size=2",
        "quantization=none", "quantization=int4", "quantization.block_size=64", "quantization.symmetric=false",
        'quantization.keep=["lm_head*"]', "backend.attention=portable", "model.allow_nonfinite=true",
        "model.allow_pickle=true",
    ],
)  # fmt: skip
def test_every_choice_that_a_step_reads_counts(folder: Path, word: str) -> None:
    assert keys(folder, *WORDS, word)["package"] != keys(folder)["package"]


@pytest.mark.parametrize(
    "word",
    [
        "specialization.ctx_len=96", "specialization.prefill_seq_len=16", "specialization.full_batch_size=2",
        "quantization=mxfp6", "backend.num_cores=8", "backend.mos=2", "backend.aic_enable_depth_first=true",
        "backend.stats_level=70", "quantization.mxint8_kv_cache=true", "device_group=x2",
    ],
)  # fmt: skip
def test_every_choice_that_a_compiler_is_told_counts(folder: Path, word: str) -> None:
    assert keys(folder, *QAIC, word)["package"] != keys(folder, *QAIC)["package"]


@pytest.mark.parametrize("tool", ["torch", "transformers", "onnx", "onnx-ir", "onnxscript", "numpy", "tokenizers"])
def test_every_declared_tool_counts(folder: Path, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(folder)
    monkeypatch.setattr(world, "distributions", lambda: {**installed.distributions(), tool: "0.0.1"})

    assert keys(folder)["package"] != before["package"]


@pytest.mark.parametrize(
    "source",
    ["actions/fetch.py", "models/facts.py", "export/neutral.py", "graph/write.py", "quantizers/__init__.py",
     "backends/onnxruntime/lower.py", "actions/package.py", "package.py", "signature.py"],
)  # fmt: skip
def test_our_own_source_counts(folder: Path, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(folder)
    copied = tmp_path / "qeffbuild"
    shutil.copytree(HERE, copied, ignore=shutil.ignore_patterns("__pycache__", "demo"))
    with (copied / source).open("a") as file:
        file.write("# changed\n")
    monkeypatch.setattr(world, "HERE", copied)
    world._source.cache_clear()
    try:
        assert keys(folder)["package"] != before["package"]
    finally:
        world._source.cache_clear()


def test_a_template_counts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(folder, *QAIC)
    templates = Path(shutil.copytree(paths.resource_dir("templates"), tmp_path / "templates"))
    with next((templates / "qaic").rglob("spec*.j2")).open("a") as file:
        file.write("\n")
    monkeypatch.setattr(compiler_plan, "resource_dir", lambda name: templates)

    assert keys(folder, *QAIC)["package"] != before["package"]


# -- what must not count -----------------------------------------------------------------------------------------------


def touch(folder: Path) -> Path:
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    return folder


def move(folder: Path) -> Path:
    return folder.rename(folder.with_name("moved"))


def rewrite(folder: Path) -> Path:
    for path in folder.iterdir():
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    return folder


def link(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    path.rename(folder.parent / "elsewhere.json")
    path.symlink_to("../elsewhere.json")
    return folder


def document(folder: Path) -> Path:
    (folder / "README.md").write_text("words about the model")
    (folder / "heldout.txt").write_text("other text")
    (folder / ".gitattributes").write_text("*.safetensors binary")
    return folder


@pytest.mark.parametrize("edit", [touch, move, rewrite, link, document], ids=lambda edit: edit.__name__)
def test_where_and_when_the_model_was_written_does_not_count(folder: Path, edit: Callable[[Path], Path]) -> None:
    before = keys(folder)

    assert keys(edit(folder)) == before


@pytest.mark.parametrize(
    "word",
    [
        "launch.jobs=2", "launch.keep_going=true", "launch.timeout_s=900", "launch.memory_mb=9000",
        "cache.verify=always", "out=outputs/elsewhere", "decoding.max_new_tokens=3", "decoding=sample",
        "decoding.seed=9", 'prompts=["another one"]', "runs=9",
    ],
)  # fmt: skip
def test_how_it_is_built_and_used_does_not_count(folder: Path, word: str) -> None:
    assert keys(folder, *WORDS, word) == keys(folder)


def test_the_order_of_words_does_not_count(folder: Path) -> None:
    assert keys(folder, *reversed(WORDS)) == keys(folder)


@pytest.fixture(scope="module")
def said_plainly(qeffbuild: Run) -> Iterator[str]:
    return qeffbuild("graph", "json").stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [("PYTHONHASHSEED", "7"), ("LC_ALL", "C"), ("TZ", "Asia/Tokyo"), ("USER", "nobody"), ("COLUMNS", "20")],
)
def test_the_surroundings_do_not_count(
    qeffbuild: Run, said_plainly: str, name: str, value: str, tmp_path: Path
) -> None:
    assert qeffbuild("graph", "json", env={name: value}, cwd=tmp_path).stdout == said_plainly
    assert sys.executable not in said_plainly
