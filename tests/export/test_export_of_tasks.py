"""Every task exports by the same parts as causal models; a change to one of those is seen here first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qeffbuild import api
from qeffbuild.export import tasks
from qeffbuild.graphs import members
from qeffbuild.models import DEMO, read_facts
from qeffbuild.models.tiny import write_tiny

WANTED = {
    ("bert", "embedding"): {"encoder": "output"},
    ("bert", "sequence-classification"): {"encoder": "logits"},
    ("deberta-v2", "sequence-classification"): {"encoder": "logits"},  # a pooler as wide as the model
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


@pytest.mark.slow
def test_an_encoders_layers_are_copies_of_one_and_agree_with_pytorch(tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModel

    model = tmp_path / "model"
    model.mkdir()
    write_tiny(model, "bert", seed=0, tokenizer=DEMO, task="embedding")
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.from_pretrained(model, num_hidden_layers=7)).save_pretrained(model)

    words = (f"cache.root={tmp_path}", "model=hf", f"model.path={model}", "model.task=embedding", "gate=full")
    built = api.build(api.compose(words, conf_dirs=()), allow_outside=True)

    report = json.loads((built.folder_of("export") / "export.json").read_text())
    assert (report["layers"], report["layers_traced"], report["all_layers_because"]) == (7, 2, None)
    found = json.loads((built.package / "manifest.json").read_text())[
        "gate"
    ]  # of the export, too: PyTorch's own weights
    assert found["export"]["at_most"]["error"] <= 1e-3
