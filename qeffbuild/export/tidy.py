"""A graph as traced -> the same graph without the arithmetic on constants and shapes that translation leaves behind.

What remains is what a reader, a lowering and a compiler want to see: the model's own operations, static where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from onnx import defs

BFLOAT16 = ir.DataType.BFLOAT16
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
LARGEST_CONSTANT = 1 << 16  # elements; shapes and indices are a few, tables are the model's own


def tidy(graph: ir.Graph, dtype: str = "float32") -> None:
    """`dtype` is the model's. Some bfloat16 inside another model is arithmetic in float32 and a rounding, which every
    runtime has; of a model that computes in it, only what ONNX itself does not define for it.
    """
    constants = _Constants(graph)
    constants.take_lifted()
    is_narrow, opset = dtype == "bfloat16", graph.opset_imports[""]
    if is_narrow:
        _fill_dtypes(graph, opset)
    for node in list(graph):
        constants.fold(node)
        if node.op_type == "Slice":
            _drop_whole_slice(node, constants)
        elif node.op_type == "Reshape":
            _static_reshape(node, constants)
        elif node.op_type == "Cast":
            _drop_idle_cast(graph, node)
        elif _lacks_bfloat16(node, opset) if is_narrow else node.op_type in ARITHMETIC:
            _in_float32(graph, node)
    remove_dead_nodes(graph)
    _share_equal_nodes(graph)


def _drop_idle_cast(graph: ir.Graph, node: ir.Node) -> None:
    """A cast to the type that a value has already; what hides behind one may be a state that was just written."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.dtype is None or int(source.dtype) != node.attributes["to"].as_int():
        return
    if result.is_graph_output():
        if source.is_graph_input() or source.is_graph_output() or source.is_initializer():
            return
        graph.outputs[list(graph.outputs).index(result)] = source
        source.name, result.name = result.name, source.name
        source.shape = source.shape or result.shape
    result.replace_all_uses_with(source)


def _in_float32(graph: ir.Graph, node: ir.Node) -> None:
    """bfloat16 as float32 and a rounding: the same numbers, where the former does not exist."""
    if not any(value.dtype == BFLOAT16 for value in node.outputs):
        return
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype not in (BFLOAT16, None):
            continue
        widened = _cast_to(ir.DataType.FLOAT, value, node)
        graph.insert_before(node, widened)
        node.replace_input_with(index, widened.outputs[0])
    for result in node.outputs:
        if result.dtype != BFLOAT16:
            continue
        rounded = _cast_to(BFLOAT16, result, node)
        result.replace_all_uses_with(rounded.outputs[0])
        rounded.replace_input_with(0, result)
        result.type = ir.TensorType(ir.DataType.FLOAT)
        graph.insert_after(node, rounded)


def _cast_to(dtype: ir.DataType, value: ir.Value, node: ir.Node) -> ir.Node:
    """A cast beside `node`, which belongs to the same layer."""
    made = ir.node("Cast", [value], {"to": int(dtype)})
    made.metadata_props.update(node.metadata_props)
    made.outputs[0].shape, made.outputs[0].type = value.shape, ir.TensorType(dtype)
    return made


def _fill_dtypes(graph: ir.Graph, opset: int) -> None:
    """Of results that translation left without one, where the operator gives what it is given."""
    for node in graph:
        result, first = node.outputs[0], node.inputs[0] if node.inputs else None
        if result.dtype is not None or first is None or first.dtype is None or node.domain != "":
            continue
        schema = defs.get_schema(node.op_type, opset)
        if schema.inputs[0].type_str == schema.outputs[0].type_str:
            result.type = ir.TensorType(first.dtype)


def _lacks_bfloat16(node: ir.Node, opset: int) -> bool:
    if node.domain != "" or node.op_type in ("Cast", "Constant"):
        return False
    schema = defs.get_schema(node.op_type, opset)
    allowed = {said.type_param_str: said.allowed_type_strs for said in schema.type_constraints}
    names = {said.type_str for said in schema.outputs}
    return any("tensor(float)" in allowed.get(name, ()) and "tensor(bfloat16)" not in allowed[name] for name in names)


def _share_equal_nodes(graph: ir.Graph) -> None:
    """The same operation on the same values is done once: masks and sizes that each layer works out for itself."""
    seen: dict[tuple[object, ...], ir.Node] = {}
    for node in list(graph):
        if node.op_type == "Constant" or any(value.is_graph_output() for value in node.outputs):
            continue
        attributes = tuple(sorted((name, str(attribute.value)) for name, attribute in node.attributes.items()))
        key = (node.domain, node.op_type, *map(id, node.inputs), len(node.outputs), attributes)
        first = seen.setdefault(key, node)
        if first is not node:
            for ours, theirs in zip(node.outputs, first.outputs, strict=True):
                ours.replace_all_uses_with(theirs)
            graph.remove(node, safe=True)


def remove_dead_nodes(graph: ir.Graph) -> None:
    outputs = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(value.uses() or value in outputs for value in node.outputs):
            graph.remove(node, safe=True)


class _Constants:
    """Small constants of the graph by value: equal ones become one node, at the front."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.front = next(iter(graph))
        self.values: dict[ir.Value, np.ndarray] = {}
        self.made: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def take_lifted(self) -> None:
        """Tensors that the model's code makes out of numbers while it runs are constants, not weights."""
        for name, value in list(self.graph.initializers.items()):
            if "lifted_tensor" in name and value.const_value is not None and value.const_value.size <= LARGEST_CONSTANT:
                value.replace_all_uses_with(self.constant(value.const_value.numpy()))
                del self.graph.initializers[name]

    def fold(self, node: ir.Node) -> None:
        """Replace a node that only rearranges constants by its result."""
        array = _constant(node) if node.op_type == "Constant" else self._computed(node)
        if array is None or array.size > LARGEST_CONSTANT:
            return
        _replace(node, self.constant(array))

    def constant(self, array: np.ndarray) -> ir.Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.made:
            tensor = ir.tensor(array)
            node = ir.node("Constant", [], {"value": tensor})
            value = node.outputs[0]
            value.shape, value.type = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
            self.graph.insert_before(self.front, node)
            self.made[key], self.values[value] = value, array
        return self.made[key]

    def ints(self, value: ir.Value | None) -> list[int] | None:
        array = self.values.get(value) if value is not None else None
        return None if array is None else [int(item) for item in array.reshape(-1)]

    def _computed(self, node: ir.Node) -> np.ndarray | None:
        compute = FOLDED.get(node.op_type) if node.domain == "" else None
        if compute is None:
            return None
        arrays = [self.values.get(value) for value in node.inputs if value is not None]
        known = [array for array in arrays if array is not None]
        return compute(node, known) if len(known) == len(arrays) else None


def _constant(node: ir.Node) -> np.ndarray | None:
    for name, dtype in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32)):
        if name in node.attributes:
            return np.asarray(node.attributes[name].value, dtype=dtype)
    if "value" not in node.attributes:
        return None
    tensor = node.attributes["value"].as_tensor()
    return tensor.numpy() if tensor.size <= LARGEST_CONSTANT else None


def _cast(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray:
    return inputs[0].astype(ir.DataType(node.attributes["to"].as_int()).numpy())


def _concat(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(inputs, axis=node.attributes["axis"].as_int())


def _unsqueeze(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray:
    return np.expand_dims(inputs[0], tuple(int(axis) for axis in inputs[1]))


def _reshape(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray:
    return inputs[0].reshape([int(size) for size in inputs[1]])


FOLDED: dict[str, Callable[[ir.Node, Sequence[np.ndarray]], np.ndarray]] = {
    "Cast": _cast,
    "CastLike": lambda node, inputs: inputs[0].astype(inputs[1].dtype),
    "Concat": _concat,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
}


def _drop_whole_slice(node: ir.Node, constants: _Constants) -> None:
    """x[:] in every axis is x."""
    starts, ends = constants.ints(node.inputs[1]), constants.ints(node.inputs[2])
    steps = constants.ints(node.inputs[4]) if len(node.inputs) > 4 else [1]
    if starts is None or ends is None or steps is None:
        return
    source = node.inputs[0]
    assert source is not None
    if all(s == 0 for s in starts) and all(e >= 2**31 - 1 for e in ends) and all(s == 1 for s in steps):
        _replace(node, source)


def _static_reshape(node: ir.Node, constants: _Constants) -> None:
    """A new shape computed from symbols becomes constants: 0 keeps an axis, -1 is the one that is left over."""
    source, target = node.inputs[0], node.outputs[0]
    assert source is not None
    if source.shape is None or target.shape is None or constants.ints(node.inputs[1]) is not None:
        return
    sizes: list[int] = []
    for axis, size in enumerate(target.shape):
        if isinstance(size, int):
            sizes.append(size)
        elif size.value is not None and axis < len(source.shape) and source.shape[axis] == size:
            sizes.append(0)
        else:
            sizes.append(-1)
    if len(sizes) == len(source.shape) and set(sizes) == {0}:
        _replace(node, source)
    elif sizes.count(-1) <= 1:
        node.attributes.pop("allowzero", None)
        node.replace_input_with(1, constants.constant(np.asarray(sizes, dtype=np.int64)))


def _replace(node: ir.Node, value: ir.Value) -> None:
    """Let `value` be read instead of the node's result; an output of the graph keeps its node."""
    result = node.outputs[0]
    if not result.is_graph_output():
        result.replace_all_uses_with(value)
