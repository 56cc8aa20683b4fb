"""Bad input that only a step or a run can see: templates, weights, tokenizers, compilers, prompts, and the cache itself.

The numbers are those of the table of bad inputs. Every row fails in the step that first sees it; what follows never runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import Call, Row, expect_refusal

from qeffbuild import api
from qeffbuild.models import DEMO

QAIC = (
    "model=llama",
    "model.scale=tiny",
    "backend=qaic",
    "specialization.ctx_len=32",
    "specialization.prefill_seq_len=8",
)
ENTRIES = "qaic/specializations.json.j2"
SLOW_TEMPLATE = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
HUGE_TEMPLATE = "{% for a in range(90000) %}{% for b in range(900) %}{{ 'x' * 99 }}{% endfor %}{% endfor %}"


def template(number: str, text: str, kind: str, *words: str, **more: Any) -> Row:
    """A user's own template in the place of ours."""
    return Row(number, ("emit", *QAIC, "backend.templates=mine", *words), kind, files={f"mine/{ENTRIES}": text}, **more)


def demo(number: str, kind: str, spoil: Callable[[Path], object], **more: Any) -> Row:
    """The demo model in a folder of the user's, spoilt."""

    def prepare(project: Path) -> None:
        shutil.copytree(DEMO, project / "model")
        spoil(project / "model")

    words = ("build", "model=hf", "model.path=model", "specialization.ctx_len=32")
    return Row(number, words, kind, prepare=prepare, **more)


def configure(name: str, **values: Any) -> Callable[[Path], object]:
    def change(model: Path) -> None:
        said = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(said | values))

    return change


def change_header(model: Path, change: Callable[[dict[str, Any]], object], first_value: bytes = b"") -> None:
    """Rewrite what the checkpoint says of its tensors; `first_value` takes the place of the first bytes of weights."""
    file = model / "model.safetensors"
    raw = file.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:start])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + first_value + raw[start + len(first_value) :])


def rename_a_tensor(model: Path) -> None:
    change_header(model, lambda header: header.update(stranger=header.pop(sorted(set(header) - {"__metadata__"})[-1])))


def add_a_tensor(model: Path) -> None:
    end = (model / "model.safetensors").stat().st_size
    end -= 8 + struct.unpack("<Q", (model / "model.safetensors").read_bytes()[:8])[0]
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
    change_header(model, lambda header: header.update(stranger=nothing))


def put_nan(model: Path) -> None:
    change_header(model, lambda header: None, first_value=b"\xff" * 8)  # NaN in float32, float16 and bfloat16


def add_a_token(model: Path) -> None:
    said = json.loads((model / "tokenizer.json").read_text())
    size = json.loads((model / "config.json").read_text())["vocab_size"]
    said["added_tokens"].append({**said["added_tokens"][0], "id": size, "content": "<extra>"})
    (model / "tokenizer.json").write_text(json.dumps(said))


def left_in(cache: Path) -> list[Path]:
    """Files that a step began and nobody took away: other tests build in this cache, whose folders are locked."""
    folders = [path for path in (cache / "v1" / "staging").glob("*") if path.is_dir() and not is_locked(path)]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def is_locked(folder: Path) -> bool:
    try:
        with folder.with_name(f"{folder.name}.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return not folder.exists()
    return False


TEMPLATES = [
    template("43", "{\n{{ nobody }}}", "template.undefined", says="specializations.json.j2:2"),
    template("44", "{\n{% for %}", "template.syntax", says="specializations.json.j2:2"),
    template("45", "{{ cycler.__init__.__globals__ }}", "template.forbidden", says="specializations.json.j2:1"),
    template("46a", HUGE_TEMPLATE, "template.size"),
    template("46b", SLOW_TEMPLATE, "limit.time", "launch.timeout_s=4", exit_code=7, says="render"),
    template("47a", "{", "template.result", says="json"),
    template("47b", '{"specializations":[{"name":1}]}', "template.result", says="specializations"),
    Row(
        "47c",
        ("emit", *QAIC, "backend.templates=mine"),
        "template.result",
        files={"mine/qaic/custom_io.yaml.j2": "a: ["},
        says="yaml",
    ),
    template("48", '{"specializations":["{{ \'"\' }}"]}', "template.result", says="| json"),
]
MODELS = [
    demo("56a", "model.weights", configure("config.json", n_layer=2), says="transformer.h.2"),
    demo("56b", "model.weights", configure("config.json", vocab_size=5000), says="vocab_size"),
    demo("56c", "model.weights", configure("config.json", n_layer=5), says="5 layers"),
    demo("57a", "model.weights", rename_a_tensor, says="missing"),
    demo("57b", "model.weights", add_a_tensor, says="stranger"),
    demo("60", "model.numeric", put_nan, says="model.allow_nonfinite=true"),
    demo("63", "model.tokenizer", lambda model: (model / "tokenizer.json").unlink(), says="no tokenizer"),
    demo("64a", "model.tokenizer", add_a_token, says="<extra>"),
    demo("64b", "model.tokenizer", configure("tokenizer_config.json", pad_token="<nobody>"), says="<nobody>"),
]
DEVICES = [
    Row("69a", ("emit", *QAIC, "backend.mdp_load_partition_config=gone.json"), "backend.file", says="gone.json"),
    Row("69b", ("emit", *QAIC, "backend.node_precision_info=gone.yaml"), "backend.file", says="gone.yaml"),
    Row("69c", ("emit", *QAIC, "backend.mdp_load_partition_config=mdp.json"), "backend.file", says="'stranger'",
        files={"mdp.json": json.dumps({"connections": [], "partitions": [{"name": "a", "devices": [], "nodeList": ["stranger"]}]})}),
    Row("70a", ("build", *QAIC), "backend.absent", exit_code=3, says="compiler"),
    Row("70b", ("plan", "backend=qaic9"), "override.choice", says="qaic"),
]  # fmt: skip
PROMPTS = [
    Row("72a", ("run", "prompts_file=gone.txt"), "run.prompt", says="gone.txt"),
    Row("72b", ("run", "prompts_file=empty.txt"), "run.prompt", says="empty.txt", files={"empty.txt": "\n"}),
    Row("72c", ("run", f"prompts=['{'and ' * 300}']"), "run.prompt", says="128"),
]


@pytest.fixture(scope="module")
def lowered(cache: Path) -> None:
    """The small model up to its documents, so that each row pays for its own step only."""
    api.build(api.compose(QAIC, conf_dirs=()), "render").package  # noqa: B018 - raises what kept it from being built


@pytest.mark.slow
@pytest.mark.usefixtures("lowered")
@pytest.mark.parametrize("row", [*TEMPLATES, *DEVICES, *PROMPTS], ids=str)
def test_bad_input_of_a_step_is_refused_in_one_line(row: Row, call: Call, cache: Path, tmp_path: Path) -> None:
    expect_refusal(row, call, tmp_path)

    assert left_in(cache) == []


@pytest.mark.slow
@pytest.mark.parametrize("row", MODELS, ids=str)
def test_a_bad_model_is_refused_before_it_is_exported(row: Row, call: Call, cache: Path, tmp_path: Path) -> None:
    said = expect_refusal(row, call, tmp_path)

    assert "export" not in [line.split()[0] for line in said.stderr.splitlines() if line.strip()]
    assert left_in(cache) == []


@pytest.mark.slow
def test_48_a_value_with_quotes_and_shell_words_stays_one_argument(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = """-note=a"b'; touch pwned; $(id) {{ 7*7 }}"""
    row = Row("48", ("emit", *QAIC, "out=here", f"backend.extra_args=[{json.dumps(hostile)}]"), kind="")

    said = call(row, tmp_path)

    assert said.exit_code == 0, said.stderr
    assert hostile in shlex.split((tmp_path / "here" / "compile.sh").read_text())
    assert hostile in json.loads((tmp_path / "here" / "commands.json").read_text())[0]


# -- 71: the cache ----------------------------------------------------------------------------------------------------

CACHE_WORDS = ("build", "model=gpt2", "model.scale=tiny", "cache.root=store")


@pytest.mark.parametrize("verb", ["build", "plan"])
def test_71_a_cache_that_others_may_write_is_not_used(verb: str, call: Call, tmp_path: Path) -> None:
    def prepare(project: Path) -> None:
        (project / "store").mkdir()
        (project / "store").chmod(0o777)

    row = Row("71", (verb, *CACHE_WORDS[1:]), "cache.unsafe", exit_code=5, says="chmod go-w", prepare=prepare)
    expect_refusal(row, call, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_71_a_cache_of_another_user_is_not_used(call: Call, tmp_path: Path) -> None:
    def prepare(project: Path) -> None:
        (project / "store").mkdir(mode=0o700)
        os.chown(project / "store", 65534, 65534)

    row = Row("71", CACHE_WORDS, "cache.unsafe", exit_code=5, says="another user", prepare=prepare)
    expect_refusal(row, call, tmp_path)


@pytest.mark.parametrize("verb", ["build", "plan"])
def test_71_a_file_in_the_place_of_the_cache_is_said(verb: str, call: Call, tmp_path: Path) -> None:
    row = Row("71", (verb, *CACHE_WORDS[1:]), "cache.unsafe", exit_code=5, says="store", files={"store": "no folder"})
    expect_refusal(row, call, tmp_path)


@pytest.mark.parametrize(("how", "kind"), [("size=64k", "cache.full"), ("ro", "cache.readonly")])
def test_71_a_cache_that_is_full_or_read_only_is_said(how: str, kind: str, call: Call, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"{how},mode=700", "tmpfs", str(store)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only who may mount has such a disk")
    try:
        row = Row("71", ("build", "model=gpt2", "model.scale=tiny", f"cache.root={store}"), kind, exit_code=5)
        said = call(row, tmp_path)
        left = [path for path in store.rglob("*") if path.is_file() and path.parent.name != "locks"]
    finally:
        subprocess.run(["umount", str(store)], check=True)

    (error,) = [line for line in said.stderr.splitlines() if line.startswith("error[")]
    assert (error.partition(":")[0], said.exit_code) == (f"error[{kind}]", 5)
    assert "Traceback" not in said.stderr
    assert [path for path in left if "staging" in path.parts] == []
