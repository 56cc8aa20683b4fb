"""States that are the last few values of something: what convolutions along a text keep.

Such a state is shifted by one value a turn. Over many tokens nothing of it is needed but a sequence: what the state
held, then the tokens' values. A turn's view of it is a window on that sequence, and a convolution of the windows is one
of the sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.shapes import constant_of, shape_of

_OLD, _ALIKE = "old", frozenset({"Identity", "Cast", "CastLike"})

Column = tuple[str, int] | ir.Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Shifted:
    """A state of `width` values along `axis` that `entering` is pushed into; `seen` are views: value -> its columns.

    No axis: the state is one value, that of the token before.
    """

    begin: ir.Node
    width: int
    axis: int | None
    entering: ir.Value
    seen: Mapping[ir.Value, tuple[int, int]]  # how many values of the window from where


def shifted(begin: ir.Node, new: ir.Value, nodes: Sequence[ir.Node]) -> Shifted | None:
    """What a turn does with a state, if that is no more than to shift it."""
    shape = shape_of(begin.outputs[0]) or ()
    if not _reaches(begin.outputs[0], new, nodes):
        return Shifted(begin=begin, width=1, axis=None, entering=new, seen={begin.outputs[0]: (0, 1)})
    for axis in range(len(shape) - 1, 0, -1):
        width = shape[axis]
        if not isinstance(width, int):
            continue
        columns: dict[ir.Value, list[Column]] = {begin.outputs[0]: [(_OLD, place) for place in range(width)]}
        for node in nodes:
            made = _columns(node, columns, axis)
            if made is not None:
                columns[node.outputs[0]] = made
        left = columns.get(new)
        if left is None or left[:-1] != [(_OLD, place) for place in range(1, width)] or isinstance(left[-1], tuple):
            continue
        whole: list[Column] = [*columns[begin.outputs[0]], left[-1]]
        return Shifted(begin=begin, width=width, axis=axis, entering=left[-1], seen=_views(columns, whole))
    return None


def _reaches(value: ir.Value, other: ir.Value, nodes: Sequence[ir.Node]) -> bool:
    """Whether `other` is made of `value`, in more than its dtype."""
    found = {value}
    for node in nodes:
        read = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
        if any(item in found for item in read):
            found.update(node.outputs)
    return other in found


def _columns(node: ir.Node, columns: Mapping[ir.Value, list[Column]], axis: int) -> list[Column] | None:
    """What a value holds along the axis, column by column."""
    inputs = [value for value in node.inputs if value is not None]
    if node.domain != "" or not any(value in columns for value in inputs):
        return None
    first = columns.get(inputs[0])
    if node.op_type in _ALIKE:
        return first
    rank = len(shape_of(node.outputs[0]) or ()) or axis + 1
    if node.op_type == "Concat" and node.attributes["axis"].as_int() % rank == axis:
        joined: list[Column] = []
        for value in inputs:
            shape = shape_of(value)
            if value not in columns and (shape is None or len(shape) <= axis or shape[axis] != 1):
                return None
            joined.extend(columns.get(value, [value]))
        return joined
    if node.op_type == "Slice" and first is not None:
        cut = sliced_along(node, axis, rank)
        return None if cut is None else first[cut]
    if node.op_type == "Pad" and first is not None:
        pads = constant_of(inputs[1])
        return first if pads is not None and not pads.any() else None
    return None


def sliced_along(node: ir.Node, axis: int, rank: int) -> slice | None:
    """What a Slice takes, where it cuts that one axis and leaves nothing out in between."""
    said = [constant_of(value) for value in node.inputs[1:]]
    if len(said) < 3 or any(item is None or item.size != 1 for item in said):
        return None
    start, end, along, *step = [int(item.reshape(-1)[0]) for item in said if item is not None]
    return slice(start, end) if along % rank == axis and step in ([], [1]) else None


def _views(columns: Mapping[ir.Value, list[Column]], whole: list[Column]) -> dict[ir.Value, tuple[int, int]]:
    seen = {}
    for value, held in columns.items():
        starts = [place for place in range(len(whole) - len(held) + 1) if whole[place : place + len(held)] == held]
        if held and starts:
            seen[value] = (starts[0], len(held))
    return seen


@dataclass(frozen=True, slots=True)
class Window:
    """Of each token t: `width` values of sequence [time, batch, ...] from t + `start` on, along `axis` of a turn."""

    sequence: ir.Value
    start: int
    width: int
    axis: int | None


class Sequences:
    """Writes what becomes of windows in one chunk, of `tokens` [1]; a row of it has `count` [batch] of them."""

    def __init__(self, emit: Emitter, tokens: ir.Value) -> None:
        self.emit, self.tokens = emit, tokens

    def begin(self, state: Shifted, before: ir.Value, entering: ir.Value) -> ir.Value:
        """before [B, ..., width, ...] and entering [tokens x B, ...] -> sequence [width + tokens, B, ...]."""
        sizes = list(shape_of(state.begin.outputs[0]) or ())
        if state.axis is None:
            shape = self.emit("Concat", self.tokens, self.emit("Shape", before), axis=0)
            return self.emit(
                "Concat", self.emit("Unsqueeze", before, [0]), self.emit("Reshape", entering, shape), axis=0
            )
        order = [state.axis, *(axis for axis in range(len(sizes)) if axis != state.axis)]
        rest = [size for axis, size in enumerate(sizes) if axis not in (0, state.axis)]
        rows = self.emit("Shape", before, start=0, end=1)
        shape = self.emit("Concat", self.tokens, rows, [int(size) for size in rest], axis=0)
        return self.emit(
            "Concat", self.emit("Transpose", before, perm=order), self.emit("Reshape", entering, shape), axis=0
        )

    def last(self, state: Shifted, sequence: ir.Value, count: ir.Value) -> ir.Value:
        """What the state holds after `count` tokens of each row: [B, ..., width, ...]."""
        emit, rank = self.emit, len(shape_of(state.begin.outputs[0]) or ())
        rows = emit("Squeeze", emit("Shape", sequence, start=1, end=2))
        row = emit("Range", 0, rows, 1)
        times = emit("Add", emit("Unsqueeze", count, [0]), _column(state.width))
        rows_of = emit("Expand", emit("Unsqueeze", row, [1]), emit("Concat", emit("Shape", times), [1], axis=0))
        index = emit("Concat", emit("Unsqueeze", times, [2]), rows_of, axis=2)
        kept = emit("GatherND", sequence, index)
        if state.axis is None:
            return emit("Squeeze", kept, [0])
        order = [axis + 1 if axis < state.axis else 0 if axis == state.axis else axis for axis in range(rank)]
        return emit("Transpose", kept, perm=order)

    def convolved(self, node: ir.Node, window: Window) -> Window | None:
        """A convolution of windows as one of their sequence; none where it strides or pads."""
        weight = node.inputs[1]
        shape, kernel = shape_of(weight), _kernel(node)
        if kernel is None or shape is None or window.axis != 2 or kernel > window.width or len(shape) != 3:
            return None
        bias = node.inputs[2] if len(node.inputs) == 3 else None
        groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
        if groups == shape[0] and shape[1] == 1:
            made = self._by_channel(window.sequence, weight, bias, kernel)
        else:
            turned = self.emit("Transpose", window.sequence, perm=[1, 2, 0])
            made = self.emit("Conv", turned, weight, bias, group=groups, kernel_shape=[kernel])
            made = self.emit("Transpose", made, perm=[2, 0, 1])
        return Window(made, window.start, window.width - kernel + 1, window.axis)

    def _by_channel(self, sequence: ir.Value, weight: ir.Value | None, bias: ir.Value | None, kernel: int) -> ir.Value:
        """One filter for each channel: a few products of whole tensors, which a processor does as fast as it reads."""
        emit = self.emit
        taps = (
            emit.several("Split", kernel, emit("Squeeze", weight, [1]), [1] * kernel, axis=1)
            if kernel > 1
            else (emit("Squeeze", weight, [1]),)
        )
        length = emit("Sub", emit("Shape", sequence, start=0, end=1), kernel - 1)
        total = bias
        for place, tap in enumerate(taps):
            part = emit("Slice", sequence, [place], emit("Add", length, place), [0])
            part = emit("Mul", part, emit("Squeeze", tap, [1]))
            total = part if total is None else emit("Add", part, total)
        assert total is not None
        return total

    def rows(self, window: Window, sizes: Sequence[int]) -> ir.Value:
        """Every token's window as a row of its own: [tokens x B, ..., width, ...]."""
        emit, parts = self.emit, []
        shape = [-1, *(size for axis, size in enumerate(sizes, 1) if axis != window.axis)]
        for place in range(window.start, window.start + window.width):
            part = emit("Slice", window.sequence, [place], emit("Add", self.tokens, place), [0])
            part = emit("Reshape", part, shape)
            parts.append(part if window.axis is None else emit("Unsqueeze", part, [window.axis]))
        return parts[0] if len(parts) == 1 else emit("Concat", *parts, axis=window.axis)


def _kernel(node: ir.Node) -> int | None:
    said = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = not any(said.get("pads", ())) and set(said.get("strides", (1,))) | set(said.get("dilations", (1,))) == {1}
    kernel = said.get("kernel_shape", ())
    return int(kernel[0]) if plain and len(kernel) == 1 and said.get("auto_pad", "NOTSET") == "NOTSET" else None


def _column(width: int) -> np.ndarray:
    return np.arange(width)[:, None]
