"""Entries of a value along an axis, in any order and number, made as far up in the graph as they can be.

They are carried up through whatever treats entries alike (elementwise operators, norms, transposes) to weights, whose
columns they are. Where they cannot be carried through, the numbers are gathered.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.fold import foldable_values

Sizes = list[int | ir.SymbolicDim]

_ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Neg", "Sqrt", "Reciprocal", "Cast", "CastLike", "Identity"),
        *("Tanh", "Sigmoid", "Erf", "Clip", "Abs", "Max", "Min"),
    }
)
_LOOKED_AT = frozenset({"CastLike", "Clip"})  # of their further inputs the type, or one number, matters
_OVER_AXES = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceSumSquare"})
_OVER_LAST = frozenset({"RMSNormalization", "LayerNormalization", "Softmax"})


class Repetition:
    """Values of one graph, each with some of its heads several times."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.emit = Emitter(graph, "repeated")
        self.foldable = foldable_values(graph)
        self.made: dict[tuple[ir.Value, int, bytes], ir.Value] = {}
        self.weights = 0
        self.activations = 0

    def repeated(self, value: ir.Value, axis: int, index: np.ndarray) -> ir.Value:
        """The entries `index` of `value` along `axis`, made as far up in the graph as they can be."""
        key = (value, axis, index.tobytes())
        if key not in self.made:
            made = self._carried_up(value, axis, index)
            if made is None:
                made = self.emit("Gather", value, index, axis=axis)
                self.weights += value in self.foldable
                self.activations += value not in self.foldable
            made.shape, made.type = with_axis(value, axis, len(index)), value.type
            self.made[key] = made
        return self.made[key]

    def _carried_up(self, value: ir.Value, axis: int, index: np.ndarray) -> ir.Value | None:
        node = value.producer()
        if node is None or value in self.foldable or node.domain or not _is_sized(value):
            return None
        if node.op_type in _ELEMENTWISE:
            return self._elementwise(node, axis, index)
        if not _is_sized(_first(node)):
            return None
        rule = _RULES.get(node.op_type)
        return None if rule is None else rule(self, value, axis, index)

    def again(self, node: ir.Node, inputs: list[ir.Value | None]) -> ir.Value:
        """The same operation on other inputs."""
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        return self.emit(node.op_type, *inputs, **attributes)

    def _elementwise(self, node: ir.Node, axis: int, index: np.ndarray) -> ir.Value | None:
        rank = _rank(node.outputs[0])
        if _sizes(node.outputs[0])[axis] == 1:
            return None  # of a single head nobody can tell what is its own from what all heads share
        inputs: list[ir.Value | None] = []
        for place, value in enumerate(node.inputs):
            if value is None or (place and node.op_type in _LOOKED_AT):
                inputs.append(value)
                continue
            if not _is_sized(value):
                return None
            own = axis - (rank - _rank(value))
            is_wide = own >= 0 and _sizes(value)[own] != 1
            inputs.append(self.repeated(value, own, index) if is_wide else value)
        return self.again(node, inputs)


def _transpose(work: Repetition, value: ir.Value, axis: int, index: np.ndarray) -> ir.Value | None:
    node = _maker(value)
    own = node.attributes["perm"].as_ints()[axis]
    return work.again(node, [work.repeated(_first(node), own, index)])


def _reshape(work: Repetition, value: ir.Value, axis: int, index: np.ndarray) -> ir.Value | None:
    """[.., heads * width] -> [.., heads, width]: the heads are stretches of the last axis."""
    node = _maker(value)
    source, target = _sizes(_first(node)), _sizes(value)
    said = _constant(node.inputs[1])
    if said is None or axis != len(target) - 2 or len(source) != len(target) - 1 or source[:axis] != target[:axis]:
        return None
    heads, width = target[axis:]
    if not (isinstance(heads, int) and isinstance(width, int) and source[axis] == heads * width):
        return None
    stretches = (index[:, None] * width + np.arange(width)).reshape(-1)
    shape = said.copy()
    shape[axis] = len(index)
    return work.again(node, [work.repeated(_first(node), axis, stretches), work.emit.constant(shape)])


def _product(work: Repetition, value: ir.Value, axis: int, index: np.ndarray) -> ir.Value | None:
    """A column of the result is a column of the weight."""
    node = _maker(value)
    weight = node.inputs[1]
    if weight not in work.foldable or weight is None or axis != _rank(value) - 1:
        return None
    turned = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int() == 1
    inputs = [node.inputs[0], work.repeated(weight, 0 if turned else 1, index), *node.inputs[2:]]
    if len(inputs) == 3 and (bias := inputs[2]) is not None and bias.shape is not None and bias.shape[-1] != 1:
        inputs[2] = work.repeated(bias, _rank(bias) - 1, index)
    return work.again(node, inputs)


def _slice(work: Repetition, value: ir.Value, axis: int, index: np.ndarray) -> ir.Value | None:
    """A part of the same axis is other entries of the whole; a part of another axis does not matter."""
    node = _maker(value)
    said = [_constant(value) for value in node.inputs[1:]]
    if len(said) < 3 or any(item is None for item in said):
        return None
    starts, _, axes = ([int(number) for number in item] for item in said[:3] if item is not None)
    steps = [int(number) for number in said[3]] if len(said) > 3 and said[3] is not None else [1] * len(starts)
    rank = _rank(value)
    places = [number % rank for number in axes]
    if axis not in places:
        return work.again(node, [work.repeated(_first(node), axis, index), *node.inputs[1:]])
    start, step = starts[places.index(axis)], steps[places.index(axis)]
    if len(places) > 1 or step != 1 or start < 0:
        return None
    return work.repeated(_first(node), axis, index + start)


def _split(work: Repetition, value: ir.Value, axis: int, index: np.ndarray) -> ir.Value | None:
    """A part of the same axis is other entries of the whole; parts of another axis are those of the repeated whole."""
    node = _maker(value)
    number = node.outputs.index(value)
    own = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if own % _rank(value) != axis:
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        whole = work.repeated(_first(node), axis, index)
        parts = work.emit.several("Split", len(node.outputs), whole, *node.inputs[1:], **attributes)
        for old, new in zip(node.outputs, parts, strict=True):
            new.shape, new.type = with_axis(old, axis, len(index)), old.type
            work.made[old, axis, index.tobytes()] = new
        return parts[number]
    before = [_sizes(output)[axis] if output.shape is not None else None for output in node.outputs[:number]]
    if not all(isinstance(size, int) for size in before):
        return None
    return work.repeated(_first(node), axis, index + sum(size for size in before if isinstance(size, int)))


def _concat(work: Repetition, value: ir.Value, axis: int, index: np.ndarray) -> ir.Value | None:
    node = _maker(value)
    if node.attributes["axis"].as_int() % _rank(value) == axis:
        return None
    return work.again(node, [None if value is None else work.repeated(value, axis, index) for value in node.inputs])


def _reduction(work: Repetition, value: ir.Value, axis: int, index: np.ndarray) -> ir.Value | None:
    node = _maker(value)
    axes = _constant(node.inputs[1]) if len(node.inputs) > 1 else None
    kept = "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1
    if axes is None or not kept or axis in {int(number) % _rank(value) for number in axes}:
        return None
    return work.again(node, [work.repeated(_first(node), axis, index), *node.inputs[1:]])


def _norm(work: Repetition, value: ir.Value, axis: int, index: np.ndarray) -> ir.Value | None:
    node = _maker(value)
    last = _rank(value) - 1
    own = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    if own % (last + 1) != last or axis == last or len(node.outputs) > 1:
        return None
    return work.again(node, [work.repeated(_first(node), axis, index), *node.inputs[1:]])


Rule = Callable[[Repetition, ir.Value, int, np.ndarray], ir.Value | None]
_RULES: dict[str, Rule] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "MatMul": _product,
    "Gemm": _product,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    **dict.fromkeys(_OVER_AXES, _reduction),
    **dict.fromkeys(_OVER_LAST, _norm),
}


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _is_sized(value: ir.Value) -> bool:
    """Whether the shape is known, or can be told from what the value is made of; then it is set."""
    node = value.producer()
    if value.shape is not None or node is None:
        return value.shape is not None
    if not all(item is None or _is_sized(item) for item in node.inputs):
        return False
    sizes = [_sizes(item) for item in node.inputs if item is not None]
    if node.op_type == "Transpose" and "perm" in node.attributes:
        value.shape = ir.Shape([sizes[0][axis] for axis in node.attributes["perm"].as_ints()])
    elif node.op_type == "MatMul" and len(sizes[1]) == 2:
        value.shape = ir.Shape([*sizes[0][:-1], sizes[1][1]])
    elif node.op_type in _ELEMENTWISE and len(sizes) == 1:
        value.shape = ir.Shape(sizes[0])
    return value.shape is not None


def _sizes(value: ir.Value) -> Sizes:
    return list(value.shape) if value.shape is not None else []


def _rank(value: ir.Value) -> int:
    return len(_sizes(value))


def _constant(value: ir.Value | None) -> np.ndarray | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def with_axis(value: ir.Value, axis: int, size: int) -> ir.Shape | None:
    if value.shape is None:
        return None
    sizes = _sizes(value)
    sizes[axis] = size
    return ir.Shape(sizes)
