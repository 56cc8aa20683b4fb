"""How many layers are traced does not depend on how many there are."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch

from qeffbuild.export import export
from qeffbuild.export.layers import NotAlike, plan
from qeffbuild.export.skeleton import configuration, skeleton

# How many layers show each kind of layer, and one to copy that is not the first.
PREFIXES = {
    "gpt2": ({"n_embd": 64, "n_head": 4}, "n_layer", 2),
    "llama": ({"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}, "num_hidden_layers", 2),
    "gemma2": ({"hidden_size": 64, "intermediate_size": 128}, "num_hidden_layers", 3),
    "gpt_oss": ({"hidden_size": 64, "intermediate_size": 64, "num_local_experts": 4}, "num_hidden_layers", 3),
}


def model_of(model_type, layers):
    sizes, name, _ = PREFIXES[model_type]
    said = {"model_type": model_type, "vocab_size": 300, **sizes, name: layers}
    return said, skeleton(configuration(said))


def facts_of(said, model):
    tensors = {
        name: {"file": "m.safetensors", "offset": 0, "nbytes": 4 * p.numel(), "dtype": "float32", "shape": [*p.shape]}
        for name, p in model.named_parameters()
    }
    return {"schema": 1, "config": said, "tensors": tensors}


@pytest.mark.parametrize("model_type", PREFIXES)
def test_twice_as_many_layers_need_no_longer_prefix(model_type):
    wanted = PREFIXES[model_type][2]

    traced = [plan(model_of(model_type, layers)[1]).traced for layers in (24, 48)]

    assert traced == [wanted, wanted]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", PREFIXES)
def test_a_deep_model_is_made_of_copies_of_its_prefix(model_type, tmp_path):
    said, model = model_of(model_type, 24)

    report = export(facts_of(said, model), tmp_path)

    assert (report.layers, report.layers_traced) == (24, PREFIXES[model_type][2])
    assert report.all_layers_because is None
    written = (tmp_path / "graph.onnx").read_bytes()
    assert written == ir.to_proto(ir.load(tmp_path / "graph.onnx")).SerializeToString(deterministic=True)


def test_a_skeleton_draws_no_numbers_and_keeps_its_tables(monkeypatch):
    drawn = []
    monkeypatch.setattr(torch.Tensor, "normal_", lambda tensor, *args, **kwargs: drawn.append(tensor) or tensor)

    _, model = model_of("llama", 3)

    assert not drawn
    assert all(parameter.is_meta for parameter in model.parameters())
    assert float(model.model.rotary_emb.inv_freq[0]) == 1.0


def test_a_model_of_as_many_kinds_as_layers_has_nothing_to_copy():
    with pytest.raises(NotAlike) as raised:
        plan(model_of("gemma2", 2)[1])

    assert str(raised.value) == "2 kinds of layer among 2"
