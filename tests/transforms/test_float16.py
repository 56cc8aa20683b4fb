"""Graphs that compute in float16, and weights that float16 could not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import chain
import numpy as np
import onnx_ir as ir
import pytest
import torch
from played_device import Device

from qeffbuild.actions import export as export_action
from qeffbuild.actions import transform as transform_action
from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.plan import Plan
from qeffbuild.signature import IoSignature


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_graph_in_float16_keeps_its_cache_so_and_gives_pytorchs_logits(family: str, tmp_path: Path) -> None:
    fetch, wide = chain.exported(family, tmp_path)
    asked = {"dtype": "float16", "task": "causal-lm", "trust_remote_code": False}
    export = chain.step(export_action, tmp_path / "half", asked, {"model": fetch})
    model = load_graph(export / "graph.onnx")
    signature = lower(model, IoSignature.load(export / "io.json"), Form())
    write_weights(model, Weights(Folder(fetch / "model", is_checkpoint=True)), tmp_path / "graph.data")
    device = Device(model, signature, 1, tmp_path)
    prompt = list(chain.PROMPTS[0])

    logits = device.run([prompt[:5]], [list(range(5))])
    logits = device.run([prompt[5:]], [list(range(5, 9))])

    with torch.no_grad():
        expected = chain.reference(fetch)(torch.tensor([prompt])).logits[0, -1].numpy()
    assert {state.dtype for state in signature.states} == {"float16"}
    assert {state.dtype for state in IoSignature.load(wide / "io.json").states} == {"float32"}
    assert logits.dtype == np.float32
    assert np.abs(logits[0, -1] - expected).max() < 0.02 * expected.std()
    assert int(logits[0, -1].argmax()) == int(expected.argmax())


def test_weights_beyond_float16_become_its_largest_number(tmp_path: Path) -> None:
    graph, out = tmp_path / "graph", tmp_path / "out"
    graph.mkdir()
    weight = np.array([[1e6, -1e6], [3.0, 65504.0]] * 200, np.float32)
    weight.tofile(graph / "w.bin")
    x = ir.Value(name="x", shape=ir.Shape(["batch_size", 400]), type=ir.TensorType(ir.DataType.FLOAT))
    stored = ir.ExternalTensor("w.bin", 0, weight.nbytes, ir.DataType.FLOAT, shape=ir.Shape(weight.shape), name="w")
    w = ir.Value(name="w", shape=ir.Shape(weight.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=stored)
    node = ir.node("MatMul", [x, w])
    node.outputs[0].name = "y"
    made = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20}, name="g")
    save_graph(ir.Model(made, ir_version=10), graph / "graph.onnx")
    (graph / "io.json").write_text(json.dumps({"graph": "g", "inputs": [], "outputs": [], "states": []}))
    (graph / "export.json").write_text("{}")

    chain.step(transform_action, out, {"passes": [{"name": "clip_float16"}]}, {"graph": graph})
    model = load_graph(out / "graph.onnx")
    write_weights(model, Weights(Folder(out)), tmp_path / "graph.data")

    (kept,) = (value.const_value for value in model.graph.initializers.values() if value.const_value.size > 1)
    read = np.fromfile(tmp_path / "graph.data", np.float32, count=weight.size, offset=kept.offset or 0)
    assert np.array_equal(read.reshape(weight.shape), np.clip(weight, -65504, 65504))
    assert [said.op_type for said in model.graph] == ["MatMul"]


def test_a_plan_clips_only_where_it_is_asked_to(plan_of: Callable[..., Plan]) -> None:
    step = plan_of("backend=qaic", "transforms.clip_float16=true", "model.dtype=float16")["transform"]

    assert step.params == {"passes": [{"name": "clip_float16"}]}
