"""Every task exports by the same parts as causal models; a change to one of those is seen here first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qeffbuild.export import tasks
from qeffbuild.graphs import members
from qeffbuild.models import DEMO, read_facts
from qeffbuild.models.tiny import write_tiny

WANTED = {
    ("bert", "embedding"): {"encoder": "output"},
    ("bert", "sequence-classification"): {"encoder": "logits"},
    ("bart", "text-seq2seq"): {"decoder": "logits", "encoder": "past_key_cross.0"},
}


@pytest.mark.parametrize(("model_type", "task"), WANTED)
def test_a_task_has_its_graphs_and_each_agrees_with_pytorch(model_type: str, task: str, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    out.mkdir()
    write_tiny(model, model_type, seed=0, tokenizer=DEMO, task=task)
    read_facts(model, task=task).save(tmp_path / "facts.json")

    report = tasks.export(json.loads((tmp_path / "facts.json").read_text()), out)

    assert report.self_check_error < 1e-4
    found = {member.name: member.signature.outputs[0].name for member in members(out)}
    assert found == WANTED[model_type, task]
