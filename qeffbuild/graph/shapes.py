"""Shapes and dtypes that a tracer left out, for the operators whose result they tell at a glance."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

SAME = frozenset({"Abs", "Cast", "CastLike", "Cos", "Erf", "Exp", "Gelu", "HardSwish", "Identity", "Log", "Neg"}) | {
    "Reciprocal", "Relu", "Sigmoid", "Sin", "Softmax", "Softplus", "Sqrt", "Tanh",
}  # fmt: skip
SPREAD = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Where"})
COMPARE = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})

Shape = tuple[int | str, ...]


def fill_shapes(nodes: Iterable[ir.Node]) -> None:
    """In order. What is known stays as it is; what cannot be told stays unknown."""
    for node in nodes:
        if node.domain != "" or len(node.outputs) != 1:
            continue
        result = node.outputs[0]
        if result.shape is None and (shape := _shape(node)) is not None:
            result.shape = ir.Shape(shape)
        if result.dtype is None and (dtype := _dtype(node)) is not None:
            result.type = ir.TensorType(dtype)


def shape_of(value: ir.Value | None) -> Shape | None:
    """Sizes as numbers, or as words where they are not known until a run."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else str(size) for size in value.shape)


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """What a value holds, where the graph itself says so."""
    if value is None:
        return None
    if value.const_value is not None and not isinstance(value.const_value, ir.ExternalTensor):
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type != "Constant" or "value" not in node.attributes:
        return None
    return node.attributes["value"].as_tensor().numpy()


def spread(shapes: Iterable[Shape]) -> Shape | None:
    """What the shapes make together, by the rules of broadcasting."""
    known = list(shapes)
    rank = max(map(len, known), default=0)
    together: list[int | str] = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in known), strict=True):
        larger = {size for size in sizes if size != 1}
        if len(larger) > 1:
            return None
        together.append(larger.pop() if larger else 1)
    return tuple(together)


def unsqueezed(shape: Shape, axes: np.ndarray) -> Shape:
    """The shape with axes of one element where a result of it has them."""
    made = list(shape)
    for axis in sorted(int(axis) % (len(shape) + axes.size) for axis in axes.reshape(-1)):
        made.insert(axis, 1)
    return tuple(made)


def _shape(node: ir.Node) -> Shape | None:
    shapes = [shape_of(value) for value in node.inputs if value is not None]
    first = shapes[0] if shapes else None
    if first is None:
        return None
    if node.op_type in SAME:
        return first
    if node.op_type in SPREAD | COMPARE:
        return None if None in shapes else spread(shape for shape in shapes if shape is not None)
    if node.op_type == "MatMul":
        return _product(first, shapes[1])
    if node.op_type == "Transpose":
        order = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(len(first))[::-1]
        return tuple(first[axis] for axis in order)
    axes = constant_of(node.inputs[1]) if len(node.inputs) == 2 else None
    if node.op_type == "Unsqueeze" and axes is not None:
        return unsqueezed(first, axes)
    if node.op_type == "Squeeze" and axes is not None:
        gone = {int(axis) % len(first) for axis in axes.reshape(-1)}
        return tuple(size for axis, size in enumerate(first) if axis not in gone)
    return None


def _product(one: Shape, other: Shape | None) -> Shape | None:
    if other is None or len(one) < 2 or len(other) < 2:
        return None
    leading = spread((one[:-2], other[:-2]))
    return None if leading is None else (*leading, one[-2], other[-1])


def _dtype(node: ir.Node) -> ir.DataType | None:
    if node.op_type in COMPARE:
        return ir.DataType.BOOL
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int())
    places = {"Where": 1, "CastLike": 1}
    if node.op_type in SAME | SPREAD | {"MatMul", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Reshape", "Tile"}:
        value = node.inputs[places.get(node.op_type, 0)]
        return None if value is None else value.dtype
    return None
