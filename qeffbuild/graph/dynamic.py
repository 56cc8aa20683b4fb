"""A product -> one of whole numbers: weights with a scale per row, activations with a scale per token, as they come."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.products import Product

_ONE, _ZERO = np.array(1, np.float32), np.array(128, np.uint8)
_SMALLEST = np.array(1e-30, np.float32)  # the scale of a token that is all zeros


def replace_by_integers(emit: Emitter, product: Product, numbers: ir.Value, scales: ir.Value) -> None:
    """`numbers` are int8 [K, N], `scales` float32 [N]."""
    graph, x = product.node.graph, product.x
    assert isinstance(graph, ir.Graph)
    largest = emit("ReduceMax", emit("Abs", x), [-1], keepdims=1)
    step = emit("Max", emit("Mul", largest, np.array(1 / 127, np.float32)), _SMALLEST)
    rounded = emit("QuantizeLinear", emit("Div", x, step), _ONE, _ZERO)
    made = emit("MatMulIntegerToFloat", rounded, numbers, _ONE, scales, _ZERO, domain="com.microsoft")
    result = emit("Mul", made, step)
    if product.bias is not None:
        result = emit("Add", result, product.bias)
    replace_value(graph, product.node.outputs[0], result)
    emit.place(product.node)
