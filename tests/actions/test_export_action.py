"""The export step reads facts.json and writes the graph, its signature and how it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qeffbuild.actions.export import run
from qeffbuild.errors import ModelError
from qeffbuild.executor.work import Work
from qeffbuild.export.skeleton import configuration, skeleton
from qeffbuild.signature import IoSignature

CONFIG = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 3, "vocab_size": 300, "n_positions": 64}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    model, out = tmp_path / "fetched", tmp_path / "out"
    model.mkdir()
    out.mkdir()
    names = skeleton(configuration(CONFIG)).named_parameters()
    tensors = {
        name: {
            "file": "m.safetensors",
            "offset": 0,
            "nbytes": 4 * p.numel(),
            "dtype": "float32",
            "shape": list(p.shape),
        }
        for name, p in names
    }
    (model / "facts.json").write_text(
        json.dumps({"schema": 1, "config": CONFIG, "task": "causal-lm", "tensors": tensors})
    )
    params = {"dtype": "float32", "pooling": "auto", "normalize": None, "trust_remote_code": False}
    return Work(name="export", params=params, inputs={"model": model}, leaves={}, out=out)


def test_an_export_needs_facts_and_no_weights(work):
    # Trust in code changes nothing about a model that brings none.
    run(asked(work, trust_remote_code=True))

    signature = IoSignature.load(work.out / "io.json")
    assert [state.name for state in signature.states][:2] == ["past_key.0", "past_value.0"]
    assert signature.states[-1].axes == ("batch_size", 4, "ctx_len", 16)
    assert signature.outputs[0].axes == ("batch_size", "num_logits", 300)
    report = json.loads((work.out / "export.json").read_text())
    assert (report["recipe"], report["layers"], report["layers_traced"]) == ("attention interface", 3, 2)


def asked(work: Work, **params: object) -> Work:
    return Work(name="export", params={**work.params, **params}, inputs=work.inputs, leaves={}, out=work.out)


def rewrite_config(work: Work, **config: object) -> None:
    path = work.inputs["model"] / "facts.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "config": {**facts["config"], **config}}))


def test_trusted_code_that_is_not_there_is_missed(work):
    rewrite_config(work, auto_map={"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"})

    with pytest.raises(ModelError) as raised:
        run(asked(work, trust_remote_code=True))

    assert raised.value.kind == "model.code"
    assert "'modeling_own.OwnForCausalLM' is not in the model folder" in raised.value.message
    assert list(work.out.iterdir()) == []
