"""What transformers does to checkpoint tensors when it loads them -> ONNX nodes that do the same to their references.

The conversion runs once on tensors without data; each operator it calls is written down and can be replayed as nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qeffbuild.errors import ModelError

aten = torch.ops.aten

# Builds the value from the stored tensors' values, and appends the nodes that it takes.
Recipe = Callable[[Mapping[str, ir.Value], list[ir.Node]], ir.Value]


class Recorder(TorchDispatchMode):
    """Remembers, for each tensor made inside the block, the operator and arguments that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[int, str] = {}
        self.made_by: dict[int, tuple[Any, tuple[Any, ...], int]] = {}
        self.alive: list[Any] = []  # an id is only good while its tensor lives

    def placeholder(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = torch.empty(shape, device="meta")
        self.names[id(tensor)] = name
        self.alive.append(tensor)
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        several = out if isinstance(out, list | tuple) else [out]
        for index, tensor in enumerate(several):
            self.made_by[id(tensor)] = (func, args, index)
        self.alive.append((args, out))
        return out

    def recipe_of(self, tensor: torch.Tensor) -> Recipe:
        return lambda stored, nodes: self._replay(tensor, stored, nodes, {})

    def _replay(
        self, tensor: Any, stored: Mapping[str, ir.Value], nodes: list[ir.Node], done: dict[int, ir.Value]
    ) -> ir.Value:
        key = id(tensor)
        if key in self.names:
            return stored[self.names[key]]
        if key not in done:
            func, args, index = self.made_by[key]
            several = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            inputs = [self._replay(one, stored, nodes, done) for one in several]
            done[key] = _emit(func, args, index, inputs, tuple(tensor.shape), nodes)
        return done[key]


def _emit(
    func: Any, args: tuple[Any, ...], index: int, inputs: list[ir.Value], shape: tuple[int, ...], nodes: list[ir.Node]
) -> ir.Value:
    """One operator's nodes. Only what moves whole elements can appear here: a loader computes nothing."""
    value, dtype = inputs[0], inputs[0].dtype
    assert dtype is not None

    def node(op_type: str, operands: list[ir.Value], size: tuple[int, ...], **attributes: Any) -> ir.Value:
        made = ir.node(op_type, operands, attributes)
        made.outputs[0].shape, made.outputs[0].type = ir.Shape(size), ir.TensorType(dtype)
        nodes.append(made)
        return made.outputs[0]

    def ints(*values: int) -> ir.Value:
        made = ir.node("Constant", [], {"value": ir.tensor(list(values), dtype=ir.DataType.INT64)})
        made.outputs[0].shape, made.outputs[0].type = ir.Shape([len(values)]), ir.TensorType(ir.DataType.INT64)
        nodes.append(made)
        return made.outputs[0]

    axis = _axis(args, len(shape))
    if func in (aten.clone.default, aten.detach.default, aten.alias.default):
        return value
    if func is aten.cat.default:
        return node("Concat", inputs, shape, axis=axis)
    if func is aten.stack.default:
        one = (*shape[:axis], 1, *shape[axis + 1 :])
        where = ints(axis)
        return node("Concat", [node("Unsqueeze", [one_of, where], one) for one_of in inputs], shape, axis=axis)
    if func is aten.transpose.int:
        order = list(range(len(shape)))
        first, second = args[1] % len(shape), args[2] % len(shape)
        order[first], order[second] = order[second], order[first]
        return node("Transpose", [value], shape, perm=order)
    if func in (aten.view.default, aten._unsafe_view.default, aten.reshape.default):
        return node("Reshape", [value, ints(*shape)], shape)
    if func in (aten.split.Tensor, aten.split_with_sizes.default):
        axis = (args[2] if len(args) > 2 else 0) % len(shape)
        sizes = args[1] if isinstance(args[1], list | tuple) else [args[1]] * (index + 1)
        start = sum(sizes[:index])
        return node("Slice", [value, ints(start), ints(start + shape[axis]), ints(axis)], shape)
    raise ModelError(
        "model.unsupported",
        f"loading this checkpoint needs {func} on its weights, which has no form by reference",
        hint="load and save the model once with transformers, and build from the saved folder",
    )


def _axis(args: tuple[Any, ...], rank: int) -> int:
    return (args[1] if len(args) > 1 and isinstance(args[1], int) else 0) % max(rank, 1)
