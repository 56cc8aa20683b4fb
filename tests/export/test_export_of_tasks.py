"""Every task exports by the same parts as causal models; a change to one of those is seen here first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qeffbuild import api
from qeffbuild.backends.onnxruntime.lower import lower
from qeffbuild.export import tasks
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graphs import members
from qeffbuild.models import DEMO, read_facts
from qeffbuild.models.tiny import write_tiny

WANTED = {
    ("bert", "embedding"): {"encoder": "output"},
    ("bert", "sequence-classification"): {"encoder": "logits"},
    ("deberta-v2", "sequence-classification"): {"encoder": "logits"},  # a pooler as wide as the model
    ("bart", "text-seq2seq"): {"decoder": "logits", "encoder": "past_key_cross.0"},
    ("t5gemma", "text-seq2seq"): {"decoder": "logits", "encoder": "past_key_cross.0"},  # two configurations in one
    # With a cache its tokens see one another, so that it is given a mask.
    ("fsmt", "text-seq2seq"): {"decoder": "logits", "encoder": "past_key_cross.0"},
    # Windows by masks, where the families' own code goes by pieces of a text.
    ("led", "text-seq2seq"): {"decoder": "logits", "encoder": "past_key_cross.0"},
    ("longformer", "sequence-classification"): {"encoder": "logits"},
}
SLOW = {"t5gemma", "fsmt", "led", "longformer"}


@pytest.mark.parametrize(
    ("model_type", "task"),
    [pytest.param(*case, marks=pytest.mark.slow if case[0] in SLOW else ()) for case in WANTED],
)
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


@pytest.mark.parametrize("padding", [None, 7])
def test_a_reranker_of_one_label_judges_each_text_by_its_own_last_token(padding: int | None, tmp_path: Path) -> None:
    import onnxruntime
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    write_tiny(tmp_path, "qwen3", seed=0, tokenizer=DEMO)
    config = AutoConfig.from_pretrained(tmp_path, num_labels=1, pad_token_id=padding)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    long, short = [21, 90, 33, 47, 61], [52, 7 if padding is None else 8, 40]

    tasks.export(read_facts(tmp_path, task="sequence-classification").as_json(), tmp_path)
    (member,) = members(tmp_path)
    graph = load_graph(member.graph)
    lower(graph, member.signature, attention="portable")
    save_graph(graph, tmp_path / "lowered.onnx")
    rows = {"input_ids": [long, [*short, 0, 0]], "attention_mask": [[1] * 5, [1, 1, 1, 0, 0]]}
    session = onnxruntime.InferenceSession(tmp_path / "lowered.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: np.array(value, np.int64) for name, value in rows.items()})

    with torch.no_grad():
        wanted = [model(input_ids=torch.tensor([row])).logits[0].numpy() for row in (long, short)]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def _exported(model_type: str, task: str, folder: Path) -> tuple[tasks.Report, list[str]]:
    """A tiny model's export, and what its graph takes."""
    write_tiny(folder, model_type, seed=0, tokenizer=DEMO, task=task)
    report = tasks.export(read_facts(folder, task=task).as_json(), folder)
    (member,) = members(folder)
    return report, [tensor.name for tensor in member.signature.inputs]


def test_texts_that_padding_would_change_have_no_mask_and_go_alone(tmp_path: Path) -> None:
    report, inputs = _exported("fnet", "embedding", tmp_path)

    assert (report.reading, inputs) == ("alone", ["input_ids"])


@pytest.mark.slow
def test_what_layers_carry_from_token_to_token_stays_inside_of_an_embedders_graph(tmp_path: Path) -> None:
    report, inputs = _exported("mamba", "embedding", tmp_path)

    assert (report.reading, inputs) == ("with a cache", ["input_ids", "attention_mask"])


@pytest.mark.slow
def test_a_text_is_judged_by_its_last_end_token_however_many_it_has(tmp_path: Path) -> None:
    import onnxruntime
    import torch
    from transformers import AutoModelForSequenceClassification

    _exported("bart", "sequence-classification", tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    end = model.config.eos_token_id
    rows = [[21, end, 33, 47, end], [52, 40, end]]

    (member,) = members(tmp_path)
    graph = load_graph(member.graph)
    lower(graph, member.signature, attention="portable")
    save_graph(graph, tmp_path / "lowered.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "lowered.onnx", providers=["CPUExecutionProvider"])
    feed = {"input_ids": [rows[0], [*rows[1], 0, 0]], "attention_mask": [[1] * 5, [1, 1, 1, 0, 0]]}
    (found,) = session.run(None, {name: np.array(value, np.int64) for name, value in feed.items()})

    with torch.no_grad():
        wanted = [model(input_ids=torch.tensor([row])).logits[0].numpy() for row in rows]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
