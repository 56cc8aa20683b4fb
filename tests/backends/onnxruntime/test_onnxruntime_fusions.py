"""Chains of small steps become the operators that mean the same, whatever their spelling; near misses stay."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from decoder_steps import build, generate
from neutral_decoder import LAYERS, make_decoder

from qeffbuild.backends.onnxruntime import lower
from qeffbuild.backends.onnxruntime.activations import fuse_activations
from qeffbuild.backends.onnxruntime.norms import fuse_norms
from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.graph.emit import Emitter

PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [11, 12]]


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def graph_of(write: Callable[[Emitter, ir.Value], ir.Value]) -> ir.Model:
    shape = ["batch_size", "seq_len", 8]
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="g")
    emit = Emitter(graph, "n")
    result = write(emit, x)
    result.shape, result.type = x.shape, x.type
    graph.extend(emit.waiting())
    graph.outputs.append(result)
    return ir.Model(graph, ir_version=10)


def new_gelu(emit: Emitter, x: ir.Value) -> ir.Value:
    cube = emit("Mul", emit("Pow", x, number(3)), number(0.044715))
    inner = emit("Tanh", emit("Mul", emit("Add", x, cube), number(0.7978845608)))
    return emit("Mul", emit("Mul", x, number(0.5)), emit("Add", inner, number(1)))


def bloom_gelu(emit: Emitter, x: ir.Value) -> ir.Value:
    square = emit("Add", emit("Mul", emit("Mul", x, number(0.044715)), x), number(1))
    inner = emit("Mul", emit("Mul", x, number(0.79788456)), square)
    return emit("Mul", emit("Mul", x, number(0.5)), emit("Add", emit("Tanh", inner), number(1)))


def exact_gelu(emit: Emitter, x: ir.Value) -> ir.Value:
    bell = emit("Add", emit("Erf", emit("Div", x, number(2**0.5))), number(1))
    return emit("Mul", emit("Mul", x, bell), number(0.5))


def silu(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit("Mul", x, emit("Sigmoid", x))


def quick_gelu(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit("Mul", emit("Sigmoid", emit("Mul", x, number(1.702))), x)


def nearly_silu(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit("Mul", x, emit("Sigmoid", emit("Mul", x, number(1.01))))


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (new_gelu, {"FastGelu": 1}),
        (bloom_gelu, {"FastGelu": 1}),
        (exact_gelu, {"Gelu": 1}),
        (silu, {"QuickGelu": 1}),
        (quick_gelu, {"QuickGelu": 1}),
        (nearly_silu, {}),
    ],
)
def test_an_activation_is_known_by_what_it_does(write: Any, expected: dict[str, int]) -> None:
    model = graph_of(write)

    assert fuse_activations(model) == expected
    assert not expected or [node.op_type for node in model.graph] == list(expected)


def weight(emit: Emitter) -> ir.Value:
    return emit.constant(np.linspace(0.5, 1.5, 8, dtype=np.float32))


def scaled(emit: Emitter, x: ir.Value, *, by_product: bool, epsilon: float = 1e-6) -> ir.Value:
    square = emit("Mul", x, x) if by_product else emit("Pow", x, number(2))
    root = emit("Sqrt", emit("Add", emit("ReduceMean", square, [-1], keepdims=1), number(epsilon)))
    return emit("Div", x, root) if by_product else emit("Mul", x, emit("Reciprocal", root))


@pytest.mark.parametrize("by_product", [False, True])
def test_a_norm_and_the_sum_before_it_are_one_operator_that_gives_both(by_product: bool) -> None:
    def write(emit: Emitter, x: ir.Value) -> ir.Value:
        other = emit("Relu", x)
        total = emit("Add", x, other)
        for value in (other, total):
            value.shape, value.type = x.shape, x.type
        normed = emit("Mul", weight(emit), scaled(emit, total, by_product=by_product))
        return emit("Sub", total, normed)

    model = graph_of(write)

    assert fuse_norms(model) == {"SkipSimplifiedLayerNormalization": 1}
    assert [node.op_type for node in model.graph] == ["Relu", "SkipSimplifiedLayerNormalization", "Sub"]


def test_a_norm_of_something_else_stays(tmp_path: Path) -> None:
    def write(emit: Emitter, x: ir.Value) -> ir.Value:
        other = emit("Relu", x)
        root = emit("Sqrt", emit("Add", emit("ReduceMean", emit("Mul", x, x), [-1], keepdims=1), number(1e-6)))
        return emit("Mul", weight(emit), emit("Div", other, root))

    assert fuse_norms(graph_of(write)) == {}


@pytest.mark.parametrize("symmetric", [True, False])
def test_quantized_queries_keys_and_values_are_one_product_and_say_the_same(
    tmp_path: Path, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_decoder(tmp_path)
    words = {"method": "int8", "bits": 8, "block_size": 16, "symmetric": symmetric, "keep": []}

    packed = build(decoder, tmp_path / "packed", quantization=words)
    # The same attention: the last bit of another one may be a whole step of what is rounded behind it.
    monkeypatch.setattr(lower, "pack_attention", lambda graph: 0)
    apart = build(decoder, tmp_path / "apart", quantization=words)

    said = json.loads((tmp_path / "packed/lower/lower.json").read_text())["fused"]
    assert said["attention_packed"] == LAYERS
    nodes = Counter(node.op_type for node in ir.load(packed.graph()).graph)
    assert nodes["MatMulNBits"] == 1 + 4 * LAYERS
    one, two = (generate(open_session(each, threads=1), PROMPTS, 4) for each in (packed, apart))
    for left, right in zip(one, two, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-3)
