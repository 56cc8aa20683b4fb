"""A marked loop over tokens becomes a Scan that does in each turn only what needs the state."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.files import DOMAIN
from qeffbuild.graph.loops import lower_loops

WIDTH = 4
WEIGHTS = np.random.default_rng(0).normal(size=(2, WIDTH, WIDTH)).astype(np.float32)


def value(name, shape, dtype=ir.DataType.FLOAT):
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def averaging() -> ir.Model:
    """state <- (state + x A) / 2, y = state B: the projections are the same for every token."""
    x, positions = value("x", ["B", "S", WIDTH]), value("position_ids", ["B", "S"], ir.DataType.INT64)
    state = value("state", ["B", WIDTH])
    graph = ir.Graph([x, positions, state], [], nodes=[], name="averaging", opset_imports={"": 20, DOMAIN: 1})
    emit = Emitter(graph, "test")

    def shaped(made, shape):
        made.shape, made.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        return made

    one = shaped(emit("Token", x, domain=DOMAIN), ["B", 1, WIDTH])
    projected = shaped(emit("MatMul", one, emit.constant(WEIGHTS[0])), ["B", 1, WIDTH])
    before = shaped(emit("StateIn", state, positions, domain=DOMAIN), ["B", WIDTH])
    halved = shaped(emit("Mul", emit("Add", before, emit("Squeeze", projected, [1])), np.float32(0.5)), ["B", WIDTH])
    after = shaped(emit("StateOut", state, halved, positions, domain=DOMAIN), ["B", WIDTH])
    told = shaped(emit("Unsqueeze", halved, [1]), ["B", 1, WIDTH])
    result = shaped(emit("MatMul", told, emit.constant(WEIGHTS[1])), ["B", 1, WIDTH])
    y = shaped(emit("Tokens", result, positions, domain=DOMAIN), ["B", "S", WIDTH])
    graph.extend(emit.waiting())
    y.name, after.name = "y", "state_RetainedState"
    graph.outputs.extend([y, after])
    return ir.Model(graph, ir_version=10)


@pytest.fixture(scope="module")
def lowered() -> ir.Model:
    model = averaging()
    assert lower_loops(model.graph, chunks=False).token_by_token == {"as asked": 1}
    model.opset_imports.pop(DOMAIN)
    return model


def run(model, x, positions, state):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "position_ids": positions, "state": state})


def test_tokens_in_one_run_and_one_by_one_give_the_same(lowered):
    x = np.random.default_rng(1).normal(size=(2, 5, WIDTH)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 4], [7, 8, 9, -1, -1]])
    state = np.ones((2, WIDTH), np.float32)

    y, last = run(lowered, x, positions, state)

    expected, now = np.zeros_like(x), state.copy()
    for at in range(5):
        now = np.where(positions[:, at : at + 1] == 0, 0, now)
        new = (now + x[:, at] @ WEIGHTS[0]) / 2
        expected[:, at] = new @ WEIGHTS[1]
        now = np.where(positions[:, at : at + 1] < 0, now, new)
    is_token = positions >= 0
    np.testing.assert_allclose(y[is_token], expected[is_token], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, now, rtol=1e-5, atol=1e-6)


def test_what_needs_no_state_is_done_for_all_tokens_at_once(lowered):
    loops = [node for node in lowered.graph if node.op_type == "Scan"]

    inside = [node.op_type for node in loops[0].attributes["body"].as_graph()]
    outside = [node.op_type for node in lowered.graph]

    assert "MatMul" not in inside
    assert outside.count("MatMul") == 2


def test_what_reads_one_result_before_the_loop_has_its_last_stands_behind_the_loop():
    model = averaging()
    y, last = model.graph.outputs
    doubled = ir.node("Add", [y, y])
    model.graph.insert_after(y.producer(), doubled)
    model.graph.outputs[0] = doubled.outputs[0]
    state_out = last.producer()
    model.graph.remove(state_out)
    model.graph.append(state_out)

    lower_loops(model.graph, chunks=False)

    model.opset_imports.pop(DOMAIN)
    places = [node.op_type for node in model.graph]
    assert places.index("Scan") < places.index("Add")
