"""A model that brings its own Python: exported when it is trusted, refused when it is not, and told where it goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qeffbuild.actions import export as export_action
from qeffbuild.actions import fetch as fetch_action
from qeffbuild.errors import ModelError
from qeffbuild.executor.work import Work
from qeffbuild.export import export
from qeffbuild.export.skeleton import configuration, small_model
from qeffbuild.models.code import CODE

SOURCES = Path(__file__).parent / "own_code"
CONFIG = {
    "model_type": "own_decoder",
    "architectures": ["OwnForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "hidden_size": 48,
    "vocab_size": 131,
}
ROWS = ([17, 30, 41, 99, 3, 80, 64, 7, 121], [14, 9, 77])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with two Python files, a configuration that names them, and weights."""
    made = tmp_path / "own"
    shutil.copytree(SOURCES, made, ignore=shutil.ignore_patterns("__pycache__"))
    small_model(configuration(CONFIG, made)).save_pretrained(made)
    (made / "config.json").write_text(json.dumps(CONFIG))
    return made


def work(step: str, folder: Path, inputs: dict[str, Path], **params: Any) -> Work:
    out = folder.parent / step
    out.mkdir()
    return Work(name=step, params=params, inputs=inputs, leaves={"model": folder}, out=out)


def fetched(folder: Path) -> Path:
    asked = work("fetch", folder, {}, scale="full", allow_pickle=False, trust_remote_code=True)
    fetch_action.run(asked)
    return asked.out


def exported(folder: Path) -> Path:
    asked = work("export", folder, {"model": fetched(folder)}, dtype="float32", trust_remote_code=True)
    export_action.run(asked)
    return asked.out


def test_a_trusted_model_says_what_its_own_code_says(folder, run_graph):
    graph = exported(folder)

    report = json.loads((graph / "export.json").read_text())
    assert (report["model_class"], report["layers"], report["layers_traced"]) == ("OwnForCausalLM", 4, 2)
    assert sorted(path.name for path in graph.iterdir()) == ["export.json", "graph.onnx", "io.json"]
    model = small_model(configuration(CONFIG, folder))
    for row, logits in zip(ROWS, run_graph(graph, folder, ROWS), strict=True):
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([row])).logits[0, -1].numpy()
        assert np.abs(logits - wanted).max() / wanted.std() < 1e-4


def test_the_code_is_part_of_what_the_export_reads(folder):
    before = fetched(folder)
    (before.parent / "fetch").rename(before.parent / "before")
    with (folder / "modeling_own.py").open("a") as file:
        file.write("# another line\n")

    after = fetched(folder)

    assert (after / "facts.json").read_bytes() == (before.parent / "before" / "facts.json").read_bytes()
    assert (after / CODE).read_bytes() != (before.parent / "before" / CODE).read_bytes()


def test_without_trust_the_flag_is_named(folder):
    asked = work("fetch", folder, {}, scale="full", allow_pickle=False, trust_remote_code=False)

    with pytest.raises(ModelError) as raised:
        fetch_action.run(asked)

    assert raised.value.kind == "model.code"
    assert "configuration_own.OwnConfig" in raised.value.message
    assert "model.trust_remote_code=true" in str(raised.value.hint)


def test_a_branch_on_data_is_named_with_its_line_and_what_to_do(folder, tmp_path):
    source = folder / "modeling_own.py"
    plain = "        for layer in self.layers:\n"
    line = "if hidden.sum() > 0:"
    source.write_text(source.read_text().replace(plain, f"        {line}\n            hidden = hidden * 2\n{plain}"))
    number = 1 + source.read_text().splitlines().index(f"        {line}")

    with pytest.raises(ModelError) as raised:
        export({"schema": 1, "config": CONFIG, "tensors": {}}, tmp_path, code=folder)

    assert raised.value.kind == "model.unsupported"
    assert f"(modeling_own.py:{number}: {line})" in raised.value.message
    assert "torch.where" in str(raised.value.hint)


def test_code_of_another_repository_is_refused(folder, tmp_path):
    config = {**CONFIG, "auto_map": {"AutoConfig": "someone/else--configuration_own.OwnConfig"}}

    with pytest.raises(ModelError) as raised:
        export({"schema": 1, "config": config, "tensors": {}}, tmp_path, code=folder)

    assert (raised.value.kind, "another repository" in raised.value.message) == ("model.code", True)


@pytest.fixture
def run_graph(session_for):
    """run_graph(folder of the export, folder of the weights, rows) -> last logits of each, as one ragged batch."""
    from qeffbuild.signature import IoSignature

    def run(graph: Path, folder: Path, rows: Any) -> Any:
        session, signature = session_for(graph / "graph.onnx", folder), IoSignature.load(graph / "io.json")
        width = max(map(len, rows))
        ids, positions = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), -1)
        for place, row in enumerate(rows):
            ids[place, : len(row)], positions[place, : len(row)] = row, np.arange(len(row))
        sizes = {"batch_size": len(rows), "ctx_len": 12}
        states = {s.name: np.zeros([sizes.get(a, a) for a in s.axes], s.dtype) for s in signature.states}
        last = np.array([[len(row) - 1] for row in rows])
        feed = {"input_ids": ids, "position_ids": positions, "logits_index": last, **states}
        return session.run(None, feed)[0][:, 0]

    return run
