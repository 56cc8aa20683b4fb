"""Norms: their elementary steps -> one operator, and the sum in front of a norm -> the same operator.

The residual stream is added to and then normalised; SkipSimplifiedLayerNormalization and SkipLayerNormalization do
both in one pass over memory and also give the sum, which the next layer adds to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import foldable_values, remove_unread

OPSET = 23  # the first that has RMSNormalization; what older operators of ours mean did not change on the way


@dataclass(frozen=True, slots=True)
class Norm:
    """x / sqrt(mean(x^2) + epsilon) * weight, over the last axis."""

    x: ir.Value
    weight: ir.Value
    epsilon: float


def fuse_norms(model: ir.Model) -> dict[str, int]:
    """Rewrites what fits; how often each operator was put in."""
    graph = model.graph
    emit, fused = Emitter(graph, "norm"), Counter[str]()
    foldable = foldable_values(graph)
    for node in list(graph):
        norm = _root_mean_square(node, foldable)
        if norm is not None:
            made = emit("RMSNormalization", norm.x, norm.weight, axis=-1, epsilon=norm.epsilon, stash_type=1)
            replace_value(graph, node.outputs[0], made)
            emit.place(node)
            fused["RMSNormalization"] += 1
    remove_unread(graph)
    for node in list(graph):
        if (word := _with_sum(graph, emit, node)) is not None:
            fused[word] += 1
    remove_unread(graph)
    if fused:
        model.opset_imports[""] = max(OPSET, model.opset_imports[""])
    fused["RMSNormalization"] -= fused["SkipSimplifiedLayerNormalization"]
    return {word: count for word, count in sorted(fused.items()) if count > 0}


def _root_mean_square(node: ir.Node, foldable: set[ir.Value]) -> Norm | None:
    """The norm that ends in this product with a weight."""
    if node.op_type != "Mul" or node.domain != "":
        return None
    for weight, scaled in (node.inputs, node.inputs[::-1]):
        if weight is None or scaled is None or weight not in foldable or weight.shape is None:
            continue
        if len(weight.shape) != 1 or weight.dtype != ir.DataType.FLOAT:
            continue
        found = _scaled(_through_casts(scaled))
        if found is not None and found[0].dtype == ir.DataType.FLOAT and found[0].shape is not None:
            x, epsilon = found
            return Norm(x, weight, epsilon) if x.shape[-1] == weight.shape[0] else None  # type: ignore[index]
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


def _with_sum(graph: ir.Graph, emit: Emitter, node: ir.Node) -> str | None:
    """Puts a norm and the sum that it reads into one operator; its name, if they fit."""
    if node.op_type not in ("RMSNormalization", "LayerNormalization") or node.inputs[0] is None:
        return None
    total = node.inputs[0]
    add = total.producer()
    if add is None or add.op_type != "Add" or add.domain != "" or len(node.outputs) != 1:
        return None
    left, right = add.inputs
    # Both have to be whole tensors of tokens: a bias, or anything else that is spread out, is not for this operator.
    shapes = [None if value is None else value.shape for value in (left, right, total)]
    if any(shape is None or len(shape) != 3 for shape in shapes) or not shapes[0] == shapes[1] == shapes[2]:
        return None
    if any(value is not None and value.dtype != ir.DataType.FLOAT for value in (left, right, *node.inputs)):
        return None
    is_plain = node.op_type == "LayerNormalization"
    word = "SkipLayerNormalization" if is_plain else "SkipSimplifiedLayerNormalization"
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    result, _, _, skipped = emit.several(
        word, 4, left, right, *node.inputs[1:], domain="com.microsoft", epsilon=epsilon
    )
    emit.place(add)
    replace_value(graph, node.outputs[0], result)
    if total.is_graph_output() or [user for user, _ in total.uses()] != [node]:
        skipped.shape, skipped.type = total.shape, total.type
        replace_value(graph, total, skipped)
    graph.remove(node, safe=True)
    return word


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
