"""Values of a loop's turn that know no state, for all tokens of a chunk at once.

A turn treats each row of a batch alike, so tokens are made rows: a value [batch, 1, ...] of the turn has the shape
[tokens x batch, 1, ...] here. One that only repeats what it holds along an axis stays narrow: it has 1 there until
somebody needs it whole.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.chunked.linear import Factor, NotLinear
from qeffbuild.graph.chunked.windows import Sequences, Shifted, Window, sliced_along
from qeffbuild.graph.emit import Emitter, detach
from qeffbuild.graph.hoist import QUANTIZED
from qeffbuild.graph.shapes import COMPARE, SAME, SPREAD, Shape, constant_of, shape_of, spread, unsqueezed

_SHAPING = frozenset({"Unsqueeze", "Squeeze", "Reshape", "Transpose", "Gather", "Identity", "CastLike", "Expand"})


class NotChunked(Exception):
    """What of the turn has no form for many tokens."""


class Rows:
    """`inner` are values that graph inputs reach: what a turn reads of them from outside is no weight."""

    def __init__(self, emit: Emitter, position: ir.Value, inner: Collection[ir.Value]) -> None:
        self.emit, self.inner = emit, inner
        self.rows: dict[ir.Value, ir.Value] = {}  # of the turn -> of the chunk
        self.narrow: dict[ir.Value, Shape] = {}
        self.windows: dict[ir.Value, Window] = {}
        self.shifted: dict[ir.Value, tuple[Shifted, ir.Value]] = {}  # views of shifted states
        self.extent = emit("Shape", position)  # (tokens, batch)
        self.length = emit("Shape", position, start=0, end=1)
        self.sequences = Sequences(emit, self.length)

    # Reading ----------------------------------------------------------------------------------------------------------

    def row_of(self, value: ir.Value) -> ir.Value:
        """A value of the turn for all tokens, narrow where it is."""
        if value in self.rows:
            return self.rows[value]
        if self._is_window(value):
            self.rows[value] = self.sequences.rows(self._window(value), self._window_sizes(value))
            return self.rows[value]
        maker = value.producer()
        if self._carried(value):
            return self.row_of(value)
        if maker is not None and maker.op_type == "Expand" and value not in self.inner:
            source = maker.inputs[0]
            if source is not None and (shape := shape_of(source)) is not None and shape != shape_of(value):
                self.rows[value], self.narrow[value] = source, shape
                return source
        if value in self.inner:
            raise NotChunked(f"{value.name} is no weight, and comes from outside the loop")
        return value

    def _carried(self, value: ir.Value) -> bool:
        """Whether the value is not free, but rows could be made of it."""
        return False

    def _full(self, value: ir.Value) -> ir.Value:
        row = self.row_of(value)
        declared = shape_of(value)
        if value not in self.narrow or declared is None:
            return row
        return self.emit("Expand", row, [size if isinstance(size, int) else 1 for size in declared])

    def shape(self, value: ir.Value) -> Shape:
        found = self._shape(value)
        if found is None:
            raise NotLinear(f"{value.name} has no known shape")
        return found

    def _shape(self, value: ir.Value) -> Shape | None:
        """The shape that a value has as rows, but for how many there are."""
        if value not in self.rows:
            self.row_of(value)
        return self.narrow[value] if value in self.narrow else shape_of(value)

    def _sizes(self, value: ir.Value) -> list[int]:
        shape = shape_of(value)
        if shape is None or any(isinstance(size, str) for size in shape[1:]):
            raise NotChunked(f"{value.name} has no known size")
        return [size for size in shape[1:] if isinstance(size, int)]

    def _is_window(self, value: ir.Value | None) -> bool:
        return value in self.windows or value in self.shifted

    def _window(self, value: ir.Value) -> Window:
        if value not in self.windows:
            state, before = self.shifted[value]
            start, width = state.seen[value]
            self.windows[value] = Window(self._sequence(state, before), start, width, state.axis)
        return self.windows[value]

    def _sequence(self, state: Shifted, before: ir.Value) -> ir.Value:
        key = state.begin.outputs[0]
        if key not in self.windows:
            made = self.sequences.begin(state, before, self._full(state.entering))
            self.windows[key] = Window(made, 0, state.width, state.axis)
        return self.windows[key].sequence

    def _window_sizes(self, value: ir.Value) -> list[int]:
        window = self._window(value)
        shape = shape_of(value)
        if shape is None:
            raise NotChunked(f"{value.name} has no known size")
        return [window.width if axis == window.axis else int(size) for axis, size in enumerate(shape) if axis]

    # Writing ----------------------------------------------------------------------------------------------------------

    def _cast_like(self, node: ir.Node) -> None:
        """Only what a value is cast to matters of the other."""
        value, like = node.inputs
        assert value is not None
        assert like is not None
        dtype = like.dtype
        if value.dtype == dtype is not None:
            return self._same(node, value)
        if dtype is None:
            raise NotChunked(f"{like.name} has no known dtype")
        self._made(node, self.emit("Cast", self.row_of(value), to=dtype), self._shape(value))

    def _same(self, node: ir.Node, value: ir.Value) -> None:
        if value in self.windows:
            self.windows[node.outputs[0]] = self.windows[value]
        else:
            self._made(node, self.row_of(value), self._shape(value))

    def _conv(self, node: ir.Node) -> None:
        value, weight, *bias = node.inputs
        assert value is not None
        assert weight is not None
        inputs = [value, weight, *([self._full(bias[0])] if bias and bias[0] is not None else [])]
        plain = ir.Node("", "Conv", inputs, list(node.attributes.values()), num_outputs=1)
        made = self.sequences.convolved(plain, self._window(value))
        detach(plain)
        if made is None:
            self._copy(node)
        else:
            self.windows[node.outputs[0]] = made

    def _sliced(self, node: ir.Node) -> bool:
        window = self._window(node.inputs[0])  # type: ignore[arg-type]
        if window.axis is None:
            return False
        cut = sliced_along(node, window.axis, len(shape_of(node.outputs[0]) or ()) or window.axis + 1)
        chosen = range(0) if cut is None else range(window.width)[cut]
        if chosen:
            self.windows[node.outputs[0]] = Window(window.sequence, window.start + chosen[0], len(chosen), window.axis)
        return bool(chosen)

    def _copy(self, node: ir.Node) -> None:
        """The same operator on rows, narrow where it acts on elements."""
        if (node.domain != "" and node.op_type not in QUANTIZED) or any(
            attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()
        ):
            raise NotChunked(f"{node.domain or 'ai.onnx'}::{node.op_type}")
        if self._overwrites(node):
            return self._same(node, node.inputs[2])  # type: ignore[arg-type]
        if node.op_type == "Expand":
            return self._expand(node)
        if (axis := _only_one(node)) is not None:
            row = self.emit("Squeeze", self._full(node.inputs[0]), [axis])  # type: ignore[arg-type]
            return self._made(node, row, shape_of(node.outputs[0]))
        values = [value for value in node.inputs if value is not None]
        if node.op_type in (SAME - {"Softmax"}) | SPREAD | COMPARE:
            shapes = [self._shape(value) for value in values]
            shape = None if None in shapes else spread(shape for shape in shapes if shape is not None)
            inputs = [None if value is None else self.row_of(value) for value in node.inputs]
        elif node.op_type == "Unsqueeze" and values[0] in self.narrow and (axes := constant_of(values[1])) is not None:
            shape, inputs = unsqueezed(self.narrow[values[0]], axes), [self.row_of(value) for value in values]
        else:
            shape, inputs = None, [None if value is None else self._full(value) for value in node.inputs]
        made_by = self.emit.several(node.op_type, len(node.outputs), *inputs, domain=node.domain, **_attributes(node))
        for old, new in zip(node.outputs, made_by, strict=True):
            new.type = old.type
            self.rows[old] = new
        self._note(node.outputs[0], shape)
        for old, new in zip(node.outputs, made_by, strict=True):
            sizes = self.narrow.get(old) or shape_of(old)
            new.shape = None if sizes is None else ir.Shape([None, *sizes[1:]])

    def _expand(self, node: ir.Node) -> None:
        value, result = node.inputs[0], node.outputs[0]
        assert value is not None
        own, wanted = self.shape(value), shape_of(result)
        if wanted is None and (sizes := node.inputs[1]) is not None and sizes not in self.inner:
            return self._made(node, self.emit("Expand", self._full(value), self.row_of(sizes)), None)
        if wanted is None or any(isinstance(size, str) for size in wanted[1:]):
            raise NotChunked(f"{result.name} has no known size")
        self._made(node, self.row_of(value), (1,) * (len(wanted) - len(own)) + own)
        if len(own) < len(wanted):
            self.rows[result] = self.emit("Unsqueeze", self.rows[result], list(range(len(wanted) - len(own))))

    def _made(self, node: ir.Node, row: ir.Value, shape: Shape | None) -> None:
        self.rows[node.outputs[0]] = row
        self._note(node.outputs[0], shape)

    def _note(self, value: ir.Value, shape: Shape | None) -> None:
        declared = shape_of(value)
        if shape is not None and shape != declared:
            self.narrow[value] = shape

    def _overwrites(self, node: ir.Node) -> bool:
        """Whether the operator writes updates over all of a value: how a loop over one token fills its results."""
        if node.op_type not in ("ScatterElements", "ScatterND") or len(node.inputs) != 3:
            return False
        data, _, updates = (shape_of(value) for value in node.inputs)
        if data is None or data != updates or node.attributes["reduction"].as_string() != "none":
            return False
        if node.op_type == "ScatterElements":
            return data[node.attributes["axis"].as_int() % len(data)] == 1
        return _counts(node.inputs[1])

    # Products and logarithms, from before they were made ------------------------------------------------------------

    def _parts(self, factor: Factor) -> tuple[Factor, ...] | None:
        """The factors of a product, if the value is one."""
        node = factor.value.producer()
        while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        if node is None or factor.value not in self.rows or not (node.op_type == "Mul" or _is_outer(node)):
            return None
        rank, parts = len(factor.dims), []
        for value in node.inputs:
            assert value is not None
            shape = self.shape(value)
            dims = factor.dims[rank - len(shape) :]
            parts.append(Factor(value, tuple(() if size == 1 else dim for size, dim in zip(shape, dims, strict=True))))
        return tuple(parts)

    def _logarithm(self, factor: Factor) -> ir.Value:
        return self._log(factor.value)

    def _log(self, value: ir.Value) -> ir.Value:
        """The logarithm of a decay, from before it was made one."""
        node, numbers = value.producer(), constant_of(value)
        if numbers is not None and (numbers > 0).all():
            return self.emit.constant(np.log(numbers).astype(np.float32))
        if node is None:
            raise NotLinear("a decay that may be negative")
        source = node.inputs[0]
        assert source is not None
        if node.op_type == "Exp":
            return self.row_of(source)
        if node.op_type == "Sigmoid":
            return self.emit("Neg", self.emit("Softplus", self.emit("Neg", self.row_of(source))))
        if node.op_type in _SHAPING and (node.op_type in ("Expand", "CastLike") or source not in self.narrow):
            if node.op_type in ("Transpose", "Gather"):
                rest = [None if item is None else self._full(item) for item in node.inputs[1:]]
                return self.emit(node.op_type, self._log(source), *rest, **_attributes(node))
            return self._log(source)  # the same elements in the same order
        raise NotLinear(f"a decay by {node.op_type}, which may be negative")


def _is_outer(node: ir.Node) -> bool:
    """Whether a product of matrices is one of columns with rows: no more than a product that spreads."""
    if node.op_type != "MatMul":
        return False
    left, right = (shape_of(value) or () for value in node.inputs)
    return len(left) > 1 and len(right) > 1 and left[-1] == right[-2] == 1


def _only_one(node: ir.Node) -> int | None:
    """The axis along which the operator takes the only element that there is: a view, and no gathering."""
    if node.op_type != "Gather":
        return None
    shape, index = shape_of(node.inputs[0]), constant_of(node.inputs[1])
    if shape is None or index is None or index.ndim:
        return None
    axis = node.attributes["axis"].as_int() % len(shape) if "axis" in node.attributes else 0
    return axis if shape[axis] == 1 else None


def _counts(index: ir.Value | None) -> bool:
    """Whether an index is 0, 1, 2 ... as a column."""
    node = None if index is None else index.producer()
    while node is not None and node.op_type in ("Unsqueeze", "Identity"):
        node = node.inputs[0].producer()  # type: ignore[union-attr]
    if node is None or node.op_type != "Range":
        return False
    start, step = constant_of(node.inputs[0]), constant_of(node.inputs[2])
    return start is not None and step is not None and int(start) == 0 and int(step) == 1


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {name: attribute.value for name, attribute in node.attributes.items()}
