"""Reshapes and casts that change nothing in the end go; those that something depends on stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from qeffbuild.backends.onnxruntime.detours import drop_detours, drop_flattening
from qeffbuild.graph.emit import Emitter

WIDTH, WIDER = 8, 12
Write = Callable[[Emitter, ir.Value], ir.Value]


def shaped(value: ir.Value, *sizes: int | str | None) -> ir.Value:
    value.shape, value.type = ir.Shape(list(sizes)), ir.TensorType(ir.DataType.FLOAT)
    return value


def graph_of(write: Write) -> ir.Model:
    x = shaped(ir.Value(name="x"), "batch_size", "seq_len", WIDTH)
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23, "com.microsoft": 1}, name="g")
    emit = Emitter(graph, "n")
    result = emit("Relu", write(emit, x))
    result.type = x.type
    graph.extend(emit.waiting())
    graph.outputs.append(result)
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    made: np.ndarray = session.run(None, {"x": np.linspace(-3, 4, 2 * 5 * WIDTH, dtype=np.float32).reshape(2, 5, -1)})[
        0
    ]
    return made


def weight(emit: Emitter) -> ir.Value:
    return emit.constant(np.linspace(-1, 1, WIDTH * WIDER, dtype=np.float32).reshape(WIDTH, WIDER))


def product(emit: Emitter, flat: ir.Value) -> ir.Value:
    """A row's largest number divides it before the product and multiplies what comes of it."""
    size = emit("ReduceMax", emit("Abs", flat), [-1], keepdims=1)
    made = emit("MatMul", emit("Div", flat, size), weight(emit))
    return shaped(emit("Mul", made, size), None, WIDER)


def flat_for_a_product(emit: Emitter, x: ir.Value) -> ir.Value:
    made = product(emit, shaped(emit("Reshape", x, [-1, WIDTH]), None, WIDTH))
    return shaped(emit("Reshape", made, [2, 5, WIDER]), "batch_size", "seq_len", WIDER)


def flat_for_a_sum_of_tokens(emit: Emitter, x: ir.Value) -> ir.Value:
    made = emit("CumSum", shaped(emit("Reshape", x, [-1, WIDTH]), None, WIDTH), np.array(0))
    return shaped(emit("Reshape", made, [2, 5, WIDTH]), "batch_size", "seq_len", WIDTH)


def spread_otherwise(emit: Emitter, x: ir.Value) -> ir.Value:
    made = product(emit, shaped(emit("Reshape", x, [-1, WIDTH]), None, WIDTH))
    return shaped(emit("Reshape", made, [5, 2, WIDER]), "seq_len", "batch_size", WIDER)


def with_another_flat(emit: Emitter, x: ir.Value) -> ir.Value:
    flat, other = (shaped(emit("Reshape", x, sizes), None, WIDTH) for sizes in ([-1, WIDTH], [10, WIDTH]))
    return shaped(emit("Reshape", emit("Add", flat, other), [2, 5, WIDTH]), "batch_size", "seq_len", WIDTH)


@pytest.mark.parametrize(
    ("write", "dropped"),
    [(flat_for_a_product, 1), (flat_for_a_sum_of_tokens, 0), (spread_otherwise, 0), (with_another_flat, 0)],
)
def test_tokens_are_flattened_only_for_those_who_care(write: Write, dropped: int) -> None:
    model = graph_of(write)
    before = run(model)

    assert drop_flattening(model.graph) == dropped
    assert ("Reshape" in [node.op_type for node in model.graph]) == (not dropped)
    np.testing.assert_array_equal(run(model), before)


def test_a_reshape_to_what_it_is_and_a_cast_to_its_own_type_go() -> None:
    def write(emit: Emitter, x: ir.Value) -> ir.Value:
        same = shaped(emit("Reshape", x, [0, 0, WIDTH]), "batch_size", "seq_len", WIDTH)
        return shaped(emit("CastLike", same, np.array(1, np.float32)), "batch_size", "seq_len", WIDTH)

    model = graph_of(write)

    assert drop_detours(model.graph) == 2
    assert [node.op_type for node in model.graph] == ["Relu"]


def test_a_reshape_between_sizes_that_nobody_knows_and_a_cast_that_rounds_stay() -> None:
    def write(emit: Emitter, x: ir.Value) -> ir.Value:
        flat = shaped(emit("Reshape", x, [-1]), None)
        again = shaped(emit("Reshape", flat, [-1]), None)
        narrow = emit("Cast", again, to=int(ir.DataType.FLOAT16))
        narrow.type = ir.TensorType(ir.DataType.FLOAT16)
        return shaped(emit("Cast", narrow, to=int(ir.DataType.FLOAT)), None)

    assert drop_detours(graph_of(write).graph) == 0
