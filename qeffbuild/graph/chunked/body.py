"""One turn of a marked loop -> the same for all tokens of a chunk at once.

What knows no state is done for all tokens as `rows`, states that are shifted become sequences (`windows`), states that
change linearly become products of matrices (`recurrence`); of anything else `NotChunked` says what it was.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.chunked.linear import Linear, NotLinear, through
from qeffbuild.graph.chunked.recurrence import Chunk, Reader, Recurrence
from qeffbuild.graph.chunked.rows import NotChunked, Rows
from qeffbuild.graph.chunked.windows import Shifted, shifted
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.shapes import shape_of

_ONLY_WINDOWS = 256  # tokens of a chunk that has no matrices of tokens by tokens


class ChunkBody(Rows):
    """Walks the nodes of a turn. Inputs are made here: `states`, `position` [tokens, batch], and `turns`."""

    def __init__(
        self, graph: ir.Graph, loop: Any, name: str, inner: Collection[ir.Value], *, may_loop: bool = True
    ) -> None:
        emit = Emitter(graph, name)
        self.loop = loop
        self.position = ir.Value(name=f"{name}.position", type=loop.position_ids.type, shape=ir.Shape([None, None]))
        super().__init__(emit, self.position, inner)
        self.linear: dict[ir.Value, Linear] = {}
        self.recurrences: dict[object, Recurrence] = {}
        self.moved: dict[ir.Node, tuple[Shifted, ir.Value]] = {}
        self.ends: dict[ir.Value, ir.Value] = {}  # the value that a state is replaced by -> what it was
        self.mine, self.walked = set(loop.nodes), set[ir.Node]()
        self.failed: dict[ir.Value, str] = {}
        self.tables: dict[str, ir.Value] = {}
        is_token = emit("GreaterOrEqual", emit("Transpose", self.position, perm=[1, 0]), 0)
        count = emit("ReduceSum", emit("Cast", is_token, to=ir.DataType.INT64), [1], keepdims=0)
        self.chunk = Chunk(emit, self.extent, is_token, count, self._table, may_loop)
        self.reader = Reader(self.row_of, self._parts, self._logarithm)
        self.turns = [self._turn(mark, f"{name}.turn.{i}") for i, mark in enumerate(loop.turns)]
        self.states = [self._state(mark, f"{name}.state.{i}") for i, mark in enumerate(loop.states)]
        self._begin()

    def walk(self) -> list[ir.Value]:
        """The states that the chunk leaves, then the results of all its tokens [tokens, batch, ...]."""
        try:
            for node in self.loop.nodes:
                self._try(node)
            # How a state is read tells which form it takes, so results come before what is left.
            results = [self._result(mark) for mark in self.loop.ends]
            return [self._last(mark) for mark in self.loop.states] + results
        except NotLinear as reason:
            raise NotChunked(str(reason)) from reason

    @property
    def tokens(self) -> int:
        return min([one.tokens for one in self.recurrences.values()], default=_ONLY_WINDOWS)

    # What the turn begins with ------------------------------------------------------------------------------------

    def _turn(self, mark: ir.Node, name: str) -> ir.Value:
        sizes = self._sizes(mark.outputs[0])
        value = ir.Value(name=name, type=mark.outputs[0].type)
        self.rows[mark.outputs[0]] = self.emit("Reshape", value, [-1, *sizes])
        return value

    def _state(self, mark: ir.Node, name: str) -> ir.Value:
        state = mark.inputs[0]
        assert state is not None
        return ir.Value(name=name, type=state.type, shape=state.shape)

    def _begin(self) -> None:
        """A row whose first token is a text's first finds zeros."""
        first = self.emit("Squeeze", self.emit("Slice", self.position, [0], [1], [0]), [0])
        for mark, state in zip(self.loop.states, self.states, strict=True):
            begin = next((node for node in self.loop.begins if node.inputs[0] is mark.inputs[0]), None)
            if begin is None:
                raise NotChunked("a state that is written and not read")
            rank = len(shape_of(begin.outputs[0]) or ())
            is_first = self.emit("Unsqueeze", self.emit("Equal", first, 0), list(range(1, rank)))
            zero = np.zeros((), (state.dtype or ir.DataType.FLOAT).numpy())
            before = self.emit("Where", is_first, zero, state)
            before.type = state.type
            found = shifted(begin, mark.inputs[1], self.loop.nodes)
            if found is not None:
                self.shifted |= dict.fromkeys(found.seen, (found, before))
                self.moved[mark] = (found, before)
                continue
            sizes: tuple[int | str, ...] = (str(state.name), *self._sizes(begin.outputs[0]))
            self.linear[begin.outputs[0]] = Linear.of(before, sizes)
            self.ends |= dict.fromkeys(_alike(mark.inputs[1]), before)

    def _table(self, name: str, table: np.ndarray) -> ir.Value:
        if name not in self.tables:
            self.tables[name] = self.emit(
                "Slice", table, [0, 0], self.emit("Concat", self.length, self.length, axis=0), [0, 1]
            )
        return self.tables[name]

    # Node by node ---------------------------------------------------------------------------------------------------

    def _try(self, node: ir.Node) -> None:
        """What cannot be done matters only if somebody reads it."""
        if node in self.walked:
            return
        self.walked.add(node)
        try:
            self._node(node)
        except (NotChunked, NotLinear) as reason:
            self.failed |= dict.fromkeys(node.outputs, str(reason))

    def _node(self, node: ir.Node) -> None:
        inputs = [value for value in node.inputs if value is not None]
        if any(output in self.shifted for output in node.outputs):
            return  # a view of a shifted state, made when it is read
        if node.op_type == "CastLike" and node.inputs[0] not in self.linear:
            return self._cast_like(node)
        if any(value in self.linear for value in inputs):
            return self._linear_node(node)
        if node.op_type == "Conv" and self._is_window(node.inputs[0]):
            return self._conv(node)
        if self._is_window(inputs[0] if inputs else None) and node.op_type == "Slice" and self._sliced(node):
            return None
        return self._copy(node)

    def _linear_node(self, node: ir.Node) -> None:
        found = [self.linear.get(value) if value is not None else None for value in node.inputs]
        result = node.outputs[0]
        try:
            made = through(node, found, self.shape)
        except NotLinear as reason:
            return self._as_elements(node, str(reason))
        if isinstance(made.base, Recurrence) and made.axis is not None:
            sizes = [int(np.prod([int(made.sizes[axis]) for axis in dim])) for dim in made.dims[1:]]
            try:
                self.rows[result] = made.base.read(made, sizes)
            except NotLinear as reason:
                self._as_elements(node, str(reason))
            return
        if result in self.ends and not isinstance(made.base, Recurrence):
            before = self.ends[result]
            self.recurrences[before] = recurrence = Recurrence(made, before, self.chunk, self.reader)
            made = Linear.of(recurrence, made.sizes)
        self.linear[result] = made

    def _as_elements(self, node: ir.Node, reason: str) -> None:
        """The operator reads the state itself, of every token."""
        bases = {self.linear[value].base for value in node.inputs if value in self.linear}
        if not all(isinstance(base, Recurrence) for base in bases):
            raise NotChunked(f"a turn's state goes through {reason}")
        self._copy(node)

    def _carried(self, value: ir.Value) -> bool:
        """A shifted state is read before what enters it is made; elements of a state are, where there is no matrix."""
        maker = value.producer()
        if value in self.failed:
            raise NotChunked(self.failed[value])
        if value in self.linear:
            self._read_elements(value)
        elif maker is not None and maker in self.mine and maker not in self.walked:
            self._try(maker)
        else:
            return False
        return True

    def _read_elements(self, value: ir.Value) -> None:
        linear, node = self.linear[value], value.producer()
        if not isinstance(linear.base, Recurrence) or node is None:
            raise NotChunked("a state is read before it is written")
        if linear.is_state and value in self.ends:
            self.rows[value] = linear.base.whole()
        else:
            self._copy(node)

    # What the turn ends with ------------------------------------------------------------------------------------------

    def _last(self, mark: ir.Node) -> ir.Value:
        new = mark.inputs[1]
        assert new is not None
        if mark in self.moved:
            state, before = self.moved[mark]
            return self.sequences.last(state, self._sequence(state, before), self.chunk.count)
        if new in self.failed:
            raise NotChunked(self.failed[new])
        linear = self.linear.get(new)
        if linear is None or not isinstance(linear.base, Recurrence) or not linear.is_state:
            raise NotChunked("a state that does not come from what it was")
        return linear.base.last()

    def _result(self, mark: ir.Node) -> ir.Value:
        value = mark.inputs[0]
        assert value is not None
        shape = self.emit("Concat", self.extent, self._sizes(value)[1:], axis=0)
        return self.emit("Reshape", self._full(value), shape)


def _alike(value: ir.Value) -> list[ir.Value]:
    """The value and what it is a plain copy of."""
    found = [value]
    while (node := found[-1].producer()) is not None and node.op_type in ("Identity", "CastLike"):
        assert node.inputs[0] is not None
        found.append(node.inputs[0])
    return found
