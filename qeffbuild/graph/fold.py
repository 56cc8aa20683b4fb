"""Which values depend on weights alone, and what they are: computed tensor by tensor, never all at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.decode import BLOCKS, DECODE, evaluate_blocks, evaluate_decode
from qeffbuild.graph.rounded import ROUNDED, evaluate_rounded
from qeffbuild.graph.weights import Weights, reference_of

Evaluate = Callable[[ir.Node, list[np.ndarray]], Sequence[np.ndarray]]


def foldable_values(graph: ir.Graph) -> set[ir.Value]:
    """Initializers, constants, and whatever the operators below make of them alone."""
    known = {value for value in graph.initializers.values() if value.const_value is not None}
    known -= set(graph.inputs)
    for node in graph:
        if _is_foldable(node, known):
            known.update(node.outputs)
    return known


def _is_foldable(node: ir.Node, known: set[ir.Value]) -> bool:
    if node.domain not in ("", "ai.onnx") and node.op_type not in (DECODE, BLOCKS, ROUNDED):
        return False
    if node.op_type == "Constant":
        return True
    return node.op_type in EVALUATE and all(value is None or value in known for value in node.inputs)


def frontier(graph: ir.Graph, foldable: set[ir.Value]) -> list[ir.Value]:
    """Foldable values that the rest of the graph reads, in the order of first use."""
    seen: dict[ir.Value, None] = {}
    for node in graph.all_nodes():
        if node.outputs and node.outputs[0] in foldable:
            continue
        for value in node.inputs:
            if value is not None and value in foldable:
                seen[value] = None
    for value in graph.outputs:
        if value in foldable:
            seen[value] = None
    return list(seen)


def compute(value: ir.Value, weights: Weights) -> np.ndarray:
    """A foldable value's content. Transposes, slices and reshapes stay views until someone copies them."""
    if (tensor := value.const_value) is not None:
        return weights.array(tensor)
    node = value.producer()
    assert node is not None, f"{value.name} is not foldable"
    if node.op_type == "Constant":
        return _constant(node)
    inputs = [None if item is None else compute(item, weights) for item in node.inputs]
    return EVALUATE[node.op_type](node, inputs)[node.outputs.index(value)]  # type: ignore[arg-type]


def identity(value: ir.Value) -> str:
    """Equal for values that are made from the same bytes in the same way: tied weights are one tensor."""
    if (tensor := value.const_value) is not None:
        return _tensor_identity(tensor)
    node = value.producer()
    assert node is not None, f"{value.name} is not foldable"
    parts = [node.op_type, str(node.outputs.index(value)), str(len(node.outputs))]
    if node.op_type == "Constant":
        array = _constant(node)
        return _digest([str(array.dtype), str(array.shape), array.tobytes().hex()])
    parts += [f"{name}={attribute.value}" for name, attribute in sorted(node.attributes.items())]
    parts += ["" if item is None else identity(item) for item in node.inputs]
    return _digest(parts)


def sources(value: ir.Value) -> list[ir.ExternalTensor]:
    """The stored tensors that a foldable value is made from."""
    if (tensor := value.const_value) is not None:
        return [tensor] if isinstance(tensor, ir.ExternalTensor) else []
    node = value.producer()
    if node is None:
        return []
    return [tensor for item in node.inputs if item is not None for tensor in sources(item)]


def remove_unread(graph: ir.Graph) -> None:
    """Drops nodes and initializers that nothing reads any more."""
    outputs = set(graph.outputs)
    for node in reversed(graph):
        if not any(output.uses() or output in outputs for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs:
            del graph.initializers[name]


def _tensor_identity(tensor: ir.TensorProtocol) -> str:
    shape = str(tuple(tensor.shape.numpy()))
    if isinstance(tensor, ir.ExternalTensor):
        return _digest([*map(str, reference_of(tensor)), tensor.dtype.name, shape])
    return _digest([tensor.dtype.name, shape, hashlib.sha256(tensor.tobytes()).hexdigest()])


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _constant(node: ir.Node) -> np.ndarray:
    ((name, attribute),) = node.attributes.items()
    if name == "value":
        return attribute.as_tensor().numpy()
    return np.array(attribute.value, np.float32 if "float" in name else np.int64)


def _axes(node: ir.Node, inputs: list[np.ndarray], rank: int) -> tuple[int, ...]:
    """Axes were an attribute before opset 13."""
    said = inputs[1] if len(inputs) > 1 else node.attributes["axes"].as_ints()
    return tuple(int(axis) % rank for axis in said)


def _integer(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _cast(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return [inputs[0].astype(ir.DataType(node.attributes["to"].as_int()).numpy(), copy=False)]


def _transpose(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return [inputs[0].transpose(node.attributes["perm"].as_ints() if "perm" in node.attributes else None)]


def _concat(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return [np.concatenate(inputs, axis=node.attributes["axis"].as_int())]


def _reshape(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    array, target = inputs[0], [int(size) for size in inputs[1]]
    if not _integer(node, "allowzero", 0):
        target = [array.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return [array.reshape(target)]


def _unsqueeze(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    array = inputs[0]
    count = len(inputs[1]) if len(inputs) > 1 else len(node.attributes["axes"].as_ints())
    return [np.expand_dims(array, _axes(node, inputs, array.ndim + count))]


def _squeeze(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    array = inputs[0]
    if len(inputs) < 2 and "axes" not in node.attributes:
        return [array.squeeze()]
    return [array.squeeze(_axes(node, inputs, array.ndim))]


def _slice(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    array, starts, ends = inputs[:3]
    axes = inputs[3] if len(inputs) > 3 and inputs[3] is not None else range(len(starts))
    steps = inputs[4] if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    index: list[slice] = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # The smallest end of a backward slice means "through the first"; to Python it would count from the back.
        past_first = step < 0 and end < -array.shape[int(axis)]
        index[int(axis)] = slice(int(start), None if past_first else int(end), int(step))
    return [array[tuple(index)]]


def _split(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    array, axis, parts = inputs[0], _integer(node, "axis", 0), len(node.outputs)
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = [int(size) for size in inputs[1]]
    else:
        each = -(-array.shape[axis] // parts)
        sizes = [each] * (parts - 1)
    return np.split(array, np.cumsum(sizes)[: parts - 1], axis=axis)


def _gather(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return [np.take(inputs[0], inputs[1], axis=_integer(node, "axis", 0))]


def _clip(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    low, high = (inputs[place] if len(inputs) > place else None for place in (1, 2))
    return [np.clip(inputs[0], low, high).astype(inputs[0].dtype, copy=False)]  # numpy makes bfloat16 wider


# What exports put between a checkpoint and its use, no more: anything else is left to the graph.
EVALUATE: dict[str, Evaluate] = {
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Gather": _gather,
    "Identity": lambda node, inputs: inputs,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Add": lambda node, inputs: [inputs[0] + inputs[1]],
    "Sub": lambda node, inputs: [inputs[0] - inputs[1]],
    "Mul": lambda node, inputs: [inputs[0] * inputs[1]],
    "Div": lambda node, inputs: [_divide(inputs[0], inputs[1])],
    "Neg": lambda node, inputs: [-inputs[0]],
    DECODE: evaluate_decode,
    BLOCKS: evaluate_blocks,
    ROUNDED: evaluate_rounded,
}


def _divide(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """ONNX divides integers towards zero."""
    return left / right if left.dtype.kind == "f" else np.trunc(left / right).astype(left.dtype)
