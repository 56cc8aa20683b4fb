"""Finds norms by the root of the mean square, however a trace wrote them down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.widen import NARROW


@dataclass(frozen=True, slots=True)
class Norm:
    """x / sqrt(mean(x^2) + epsilon) * weight, over the last axis; all but the last product in float32."""

    x: ir.Value
    weight: ir.Value
    epsilon: float


def root_mean_square(node: ir.Node, foldable: set[ir.Value]) -> Norm | None:
    """The norm that ends in this product with a weight."""
    if node.op_type != "Mul" or node.domain != "":
        return None
    for weight, scaled in (node.inputs, node.inputs[::-1]):
        if weight is None or scaled is None or weight not in foldable or weight.shape is None:
            continue
        if len(weight.shape) != 1 or weight.dtype not in (ir.DataType.FLOAT, *NARROW):
            continue
        found = _scaled(_through_casts(_widened_from(scaled, weight.dtype)))
        if found is None:
            continue
        x, epsilon = _widened_from(found[0], weight.dtype), found[1]
        if x.dtype == weight.dtype and x.shape is not None:
            return Norm(x, weight, epsilon) if x.shape[-1] == weight.shape[0] else None
    return None


def _scaled(value: ir.Value) -> tuple[ir.Value, float] | None:
    """x and epsilon of x * 1 / sqrt(mean(x^2) + epsilon), or of x / sqrt(...)."""
    node = value.producer()
    if node is None or node.op_type not in ("Mul", "Div"):
        return None
    pairs = (node.inputs, node.inputs[::-1]) if node.op_type == "Mul" else (node.inputs,)
    for x, root in pairs:
        if node.op_type == "Mul":
            root = _only_input(root, "Reciprocal")
        shifted = _only_input(root, "Sqrt")
        total = shifted.producer() if shifted is not None else None
        if x is None or total is None or total.op_type != "Add":
            continue
        for mean, shift in (total.inputs, total.inputs[::-1]):
            epsilon = _number(shift)
            square = _mean_of(mean) if epsilon is not None else None
            if square is not None and _is_square_of(square, x):
                return _through_casts(x), epsilon  # type: ignore[return-value]
    return None


def _mean_of(value: ir.Value | None) -> ir.Value | None:
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "ReduceMean" or node.attributes.get_int("keepdims", 1) != 1:
        return None
    axes = _constant(node.inputs[1]) if len(node.inputs) > 1 else None
    rank = len(node.inputs[0].shape) if node.inputs[0] is not None and node.inputs[0].shape is not None else 0
    return node.inputs[0] if axes is not None and axes.tolist() in ([-1], [rank - 1]) else None


def _is_square_of(square: ir.Value, x: ir.Value) -> bool:
    node = square.producer()
    if node is None or node.op_type not in ("Mul", "Pow"):
        return False
    base, power = (_through_casts(value) if value is not None else None for value in node.inputs)
    if base is not _through_casts(x):
        return False
    return power is base if node.op_type == "Mul" else _number(power) == 2.0


def _widened_from(value: ir.Value, narrow: ir.DataType) -> ir.Value:
    """Of a cast between float32 and a narrow dtype, whichever way, what it reads; of anything else itself."""
    node = value.producer()
    if narrow not in NARROW or node is None or node.op_type != "Cast" or node.inputs[0] is None:
        return value
    return node.inputs[0] if {value.dtype, node.inputs[0].dtype} == {ir.DataType.FLOAT, narrow} else value


def _through_casts(value: ir.Value) -> ir.Value:
    """What a value was before casts that keep float32 as it is."""
    node = value.producer()
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        if node.inputs[0].dtype != ir.DataType.FLOAT or value.dtype != ir.DataType.FLOAT:
            break
        value = node.inputs[0]
        node = value.producer()
    return value


def _only_input(value: ir.Value | None, op_type: str) -> ir.Value | None:
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == op_type and node.domain == "" else None


def _number(value: ir.Value | None) -> float | None:
    array = _constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _constant(value: ir.Value | None) -> np.ndarray | None:
    if value is None:
        return None
    tensor, node = value.const_value, value.producer()
    if tensor is None and node is not None and node.op_type == "Constant" and "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor()
    return None if tensor is None or isinstance(tensor, ir.ExternalTensor) else tensor.numpy()
