"""The pick of the tokens whose logits are asked for moves up to the last node that mixes tokens, and no further."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from qeffbuild.backends.onnxruntime.gathering import gather_early
from qeffbuild.graph.emit import Emitter

WIDTH = 8
Write = Callable[[Emitter, ir.Value], ir.Value]


def of_tokens(value: ir.Value, width: int = WIDTH) -> ir.Value:
    value.shape, value.type = ir.Shape(["batch_size", "seq_len", width]), ir.TensorType(ir.DataType.FLOAT)
    return value


def weight(emit: Emitter, *shape: int) -> ir.Value:
    return emit.constant(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


def graph_of(write: Write) -> ir.Model:
    """What `write` makes of x [rows, tokens, width], then the pick of the tokens that are asked for."""
    x = of_tokens(ir.Value(name="x"))
    shape, int64 = ir.Shape(["batch_size", "num_logits"]), ir.TensorType(ir.DataType.INT64)
    asked = ir.Value(name="logits_index", shape=shape, type=int64)
    graph = ir.Graph([x, asked], [], nodes=[], opset_imports={"": 23, "com.microsoft": 1}, name="g")
    emit = Emitter(graph, "n")
    written = of_tokens(write(emit, x))
    column = emit("Unsqueeze", asked, [2])
    column.shape, column.type = ir.Shape(["batch_size", "num_logits", 1]), int64
    result = emit("GatherElements", written, emit("Expand", column, [1, 1, WIDTH]), axis=1)
    result.shape, result.type = ir.Shape(["batch_size", "num_logits", WIDTH]), x.type
    graph.extend(emit.waiting())
    graph.outputs.append(result)
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model) -> np.ndarray:
    model.graph.sort()  # as the step does behind all of its rewrites
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((2, 5, WIDTH)).astype(np.float32)
    made: np.ndarray = session.run(None, {"x": x, "logits_index": np.array([[4, 1, 1], [0, 2, 3]])})[0]
    return made


def mixed(emit: Emitter, x: ir.Value) -> ir.Value:
    """Each token and those before it: what attention stands for here."""
    return of_tokens(emit("CumSum", x, np.array(1)))


def layer(emit: Emitter, x: ir.Value) -> ir.Value:
    """Residual stream, norm, a product of blocks of 8-bit integers as a form for prompts has it, an activation."""
    total = of_tokens(emit("Add", x, emit("MatMul", mixed(emit, x), weight(emit, WIDTH, WIDTH))))
    normed = emit("RMSNormalization", total, weight(emit, WIDTH), axis=-1)
    largest = emit("ReduceMax", emit("Abs", normed), [-1], keepdims=1)
    sizes = emit("Div", largest, np.array(127, np.float32))
    one, middle = np.array(1, np.float32), np.array(128, np.uint8)
    rounded = emit("QuantizeLinear", emit("Div", normed, sizes), one, middle)
    numbers = emit.constant(np.arange(WIDTH * WIDTH, dtype=np.int8).reshape(WIDTH, WIDTH))
    parts = [rounded, numbers, one, weight(emit, WIDTH), middle]
    product = emit("MatMulIntegerToFloat", *parts, domain="com.microsoft")
    return emit("Add", total, emit("Sigmoid", emit("Mul", product, sizes)))


def beside(emit: Emitter, x: ir.Value) -> ir.Value:
    """Attention and the rest of a layer side by side: both read the same norm."""
    normed = of_tokens(emit("LayerNormalization", x, weight(emit, WIDTH), axis=-1))
    return emit("Add", emit("Add", x, mixed(emit, normed)), emit("MatMul", normed, weight(emit, WIDTH, WIDTH)))


@pytest.mark.parametrize(("write", "products", "picks"), [(layer, 2, 2), (beside, 1, 3)])
def test_what_treats_each_token_by_itself_is_done_for_those_that_are_asked_for(
    write: Write, products: int, picks: int
) -> None:
    model = graph_of(write)
    before = run(model)

    assert gather_early(model.graph) == products
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("GatherND") == picks
    assert "GatherElements" not in kinds
    np.testing.assert_array_equal(run(model), before)


def product_then(emit: Emitter, x: ir.Value, *after: ir.Value) -> ir.Value:
    return emit("Add", emit("MatMul", x, weight(emit, WIDTH, WIDTH)), *after)


def over_tokens(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit("Softmax", product_then(emit, x, weight(emit, WIDTH)), axis=1)


def by_place(emit: Emitter, x: ir.Value) -> ir.Value:
    return product_then(emit, x, weight(emit, 5, WIDTH))


def steps_by_place(emit: Emitter, x: ir.Value) -> ir.Value:
    steps, middle = np.linspace(0.5, 1, 5, dtype=np.float32), np.zeros(5, np.uint8)
    rounded = emit("QuantizeLinear", product_then(emit, x, weight(emit, WIDTH)), steps, middle, axis=1)
    return emit("DequantizeLinear", rounded, steps, middle, axis=1)


def turned_round(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit("MatMul", weight(emit, 5, 5), x)


@pytest.mark.parametrize("write", [over_tokens, by_place, steps_by_place, turned_round])
def test_nothing_moves_past_what_reads_other_tokens_or_knows_their_places(write: Write) -> None:
    model = graph_of(write)
    before = run(model)

    assert gather_early(model.graph) == 0
    np.testing.assert_array_equal(run(model), before)


def test_what_somebody_else_reads_stays_whole() -> None:
    model = graph_of(layer)
    stream = next(node for node in model.graph if node.op_type == "Add").outputs[0]
    model.graph.outputs.append(stream)

    assert gather_early(model.graph) == 1
    assert stream.shape == ir.Shape(["batch_size", "seq_len", WIDTH])
