"""A graph and the ranges of its activations -> matrix products of 8-bit weights and 16-bit activations (A16W8, QDQ).

Each product with a stored weight is written as the provider looks for it: DequantizeLinear before both inputs,
QuantizeLinear behind. Weights are signed, with a scale for each output; activations are unsigned, with one scale.
All else stays in float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.products import Product, products

_LARGEST = 127  # -128 is left out: weights are symmetric
_STEPS = 65535
_OPSET = 21  # the first with unsigned 16-bit activations; to what exports write it only adds types


def activations(graph: ir.Graph) -> dict[str, ir.Value]:
    """What goes into each product and what comes out of it, before its bias: the numbers whose ranges must be known.

    Adds to the graph what tells a product from its bias; a graph for measuring, not for use.
    """
    emit = Emitter(graph, "apart")
    found: dict[str, ir.Value] = {}
    for product in products(graph):
        result = product.node.outputs[0]
        found[product.x.name or ""] = product.x
        found[_result(product)] = result if product.bias is None else emit("Sub", result, product.bias)
    graph.extend(emit.waiting())
    return found


def quantize_products(model: ir.Model, ranges: Mapping[str, Sequence[float]]) -> None:
    emit = Emitter(model.graph, "qdq")
    for product in list(products(model.graph)):
        _quantize(model.graph, emit, product, ranges)
    remove_unread(model.graph)
    model.opset_imports[""] = max(model.opset_imports[""], _OPSET)


def _quantize(graph: ir.Graph, emit: Emitter, product: Product, ranges: Mapping[str, Sequence[float]]) -> None:
    tensor = product.weight.const_value
    if tensor is None or len(tensor.shape) != 2:
        return
    weight = tensor.numpy().astype(np.float32)
    weight = weight.T if product.is_transposed else weight  # [K, N]
    scale = np.maximum(np.abs(weight).max(axis=0), 1e-8) / _LARGEST
    numbers = emit.constant(np.round(weight / scale).clip(-_LARGEST, _LARGEST).astype(np.int8))
    wide = emit("DequantizeLinear", numbers, scale.astype(np.float32), np.zeros(scale.shape, np.int8), axis=1)
    x = _rounded(emit, product.x, ranges[product.x.name or ""])
    y = _rounded(emit, emit("MatMul", x, wide), ranges[_result(product)])
    if product.bias is not None:
        y = emit("Add", y, product.bias)
    replace_value(graph, product.node.outputs[0], y)
    emit.place(product.node)


def _rounded(emit: Emitter, value: ir.Value, said: Sequence[float]) -> ir.Value:
    low, high = min(said[0], 0.0), max(said[1], 0.0)  # zero is a number that is met exactly
    scale = np.array(max(high - low, 1e-8) / _STEPS, np.float32)
    zero = np.array(round(-low / float(scale)), np.uint16)
    return emit("DequantizeLinear", emit("QuantizeLinear", value, scale, zero), scale, zero)


def _result(product: Product) -> str:
    return f"{product.node.outputs[0].name}.product"
