"""A state that every token changes linearly -> the same for all tokens of a chunk at once, by products of matrices.

Of a turn it is known that  S' = g S + p w,  w = v + f (r S),  and that results are q S'. There p, r and q have the
axis K of the state along which is summed, v and w its other axis V, and the decay g is one number for a head, or one
for each of K. Let D[t,s] be the product of the decays after s up to t: the exponential of a sum of logarithms, so that
nothing is divided by anything. Then

    w = v + f (r D[t-1,0] S) + T w,   T[t,s] = f (r[t] D[t-1,s] p[s]) for s < t,   solved by (1 - T)^-1
    q S'  = q D[t,0] S + (q[t] D[t,s] p[s] for s <= t) w
    S_end = D[end,0] S + (p[s] D[end,s]) w

as in the chunked forms of Mamba-2 (arXiv:2405.21060) and of the delta rule (arXiv:2406.06484). Where a decay has every
axis of the state there are no such matrices; then  S' = g S + u  is the one thing that is done token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.chunked import elements, triangular
from qeffbuild.graph.chunked.linear import Factor, Linear, NotLinear, Product
from qeffbuild.graph.chunked.placing import Placing, folded
from qeffbuild.graph.emit import Emitter

SCALAR, SOLVED, BY_KEY, ELEMENTS = 64, 32, 16, 64  # tokens of a chunk, for each form of recurrence


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is known of the chunk: tokens and rows [2] = (tokens, batch), and which tokens are none, [batch, tokens]."""

    emit: Emitter
    extent: ir.Value
    is_token: ir.Value
    count: ir.Value  # of each row
    constant: Callable[[str, np.ndarray], ir.Value]  # a table [C, C] cut to the chunk's length
    may_loop: bool


@dataclass(frozen=True, slots=True)
class Reader:
    """What the walk over the turn knows of its values."""

    of_chunk: Callable[[ir.Value], ir.Value]  # a value of one turn, for all tokens: rows are (token, batch)
    parts: Callable[[Factor], tuple[Factor, ...] | None]  # of a product
    logarithm: Callable[[Factor], ir.Value]  # of a decay


class Recurrence:
    """One state in one chunk. `before` is what the chunk finds, in the state's own axes."""

    def __init__(self, said: Linear, before: ir.Value, chunk: Chunk, reader: Reader) -> None:
        if len(said.whole) != 1 or said.whole[0].sign < 0:
            raise NotLinear("a state that does not decay by a factor")
        self.said, self.before, self.chunk, self.reader = said, before, chunk, reader
        self.emit = chunk.emit
        self.placing = Placing(chunk.emit, chunk.extent, said.sizes, reader.of_chunk)
        self.key: int | None = None
        self.by_key = False
        self.all: ir.Value | None = None

    @property
    def tokens(self) -> int:
        """How many a chunk had best have."""
        if self.all is not None:
            return ELEMENTS
        if self.by_key:
            return BY_KEY
        return SOLVED if self.said.inner else SCALAR

    # The forms ----------------------------------------------------------------------------------------------------

    def prepare(self, key: int) -> None:
        """Work out p, v, decays and w, for sums along axis `key`."""
        if self.key is not None:
            if self.key != key:
                raise NotLinear("sums along two axes")
            return
        rank = len(self.said.sizes)
        others = [axis for axis in range(1, rank) if axis != key]
        if rank not in (3, 4) or self.said.axis not in (None, key) or len(self.said.free) + len(self.said.inner) < 1:
            raise NotLinear("a state of other axes")
        self.value_axis, self.head = others[-1], others[0] if rank == 4 else None
        decay = self.said.whole[0]
        if self.value_axis in decay.axes:
            raise NotLinear("decays of single elements")
        self.by_key = key in decay.axes
        keys, values = zip(*(self._split(product, key) for product in self._sources()), strict=True)
        if any(one != keys[0] for one in keys):
            raise NotLinear("more than one direction is written")
        self.key = key
        self._decays(decay)
        self.p = self._where_token(self._matrix(Product(keys[0]), key))
        self.pT = self.emit("Transpose", self.p, perm=[0, 1, 3, 2])
        self.w = self._solved(values)

    def _sources(self) -> list[Product]:
        if len(self.said.inner) > 1 or len(self.said.free) > 1:
            raise NotLinear("more than one sum")
        return [*self.said.free, *(outer for outer, _ in self.said.inner)]

    def _split(self, product: Product, key: int) -> tuple[tuple[Factor, ...], Product]:
        """The factors along `key`, and the rest."""
        keys, rest, left = [], [], list(product.factors)
        while left:
            factor = left.pop(0)
            if key not in factor.axes:
                rest.append(factor)
            elif self.value_axis not in factor.axes:
                keys.append(factor)
            elif (parts := self.reader.parts(factor)) is not None:
                left[:0] = parts
            else:
                raise NotLinear("what is written has no rank one")
        if not keys:
            raise NotLinear("what is written is the same along the axis of the sum")
        return tuple(keys), Product(tuple(rest), product.sign)

    def _decays(self, decay: Product) -> None:
        """`log` [B,H,c,K or 1]; `to_each`: up to each token; `between[t,s]`: after s up to t; and as t finds it."""
        emit = self.emit
        logs = [
            self.placing.placed(self.reader.logarithm(factor), factor, self.head, self.key) for factor in decay.factors
        ]
        log = self._where_token(
            folded(emit, "Add", logs) if logs else emit.constant(np.zeros((1, 1, 1, 1), np.float32))
        )
        lower = self.chunk.constant("lower", triangular.lower(SCALAR))
        self.strict = self.chunk.constant("strict", triangular.lower(SCALAR, -1))
        self.to_each = emit("Exp", emit("MatMul", lower, log))
        after = log if self.by_key else emit("Mul", log, self.strict)  # [j,s]: of j, if it comes after s
        between = self._pairs if self.by_key else self._decayed
        self.between = between(after, lower)
        self.before_each = self.found_between = None
        if self.said.inner:
            self.before_each = emit("Exp", emit("MatMul", self.strict, log))
            self.found_between = between(after, self.strict)

    def _decayed(self, after: ir.Value, up_to: ir.Value) -> ir.Value:
        """[B,H,t,s]: decays of a head between each two tokens; 0 where s is not before t."""
        return self.emit("Mul", self.emit("Exp", self.emit("MatMul", up_to, after)), up_to)

    def _pairs(self, log: ir.Value, up_to: ir.Value) -> ir.Value:
        """[B,H,t,s,K]: decays of each element between each two tokens; 0 where s is not before t."""
        emit = self.emit
        # chosen[t,s,j]: whether j comes after s and up to t.
        chosen = emit(
            "Mul", emit("Unsqueeze", up_to, [1]), emit("Unsqueeze", emit("Transpose", self.strict, perm=[1, 0]), [0])
        )
        made = emit("Exp", emit("MatMul", chosen, emit("Unsqueeze", log, [2])))
        return emit("Mul", made, emit("Unsqueeze", up_to, [2]))

    def _weighed(self, left: ir.Value, between: ir.Value) -> ir.Value:
        """left[t] D[t,s] p[s] summed along K: [B,H,t,s]."""
        emit = self.emit
        if not self.by_key:
            return emit("Mul", emit("MatMul", left, self.pT), between)
        each = emit("Mul", between, emit("Unsqueeze", self.p, [2]))
        return emit("Squeeze", emit("MatMul", each, emit("Unsqueeze", left, [4])), [4])

    def _solved(self, values: tuple[Product, ...]) -> ir.Value:
        emit, written = self.emit, list(values)
        v = self._matrix(written.pop(0), self.value_axis) if self.said.free else None
        if not self.said.inner:
            assert v is not None
            return v
        outer = written.pop(0)
        if self.value_axis in outer.axes or self.value_axis in self.said.inner[0][1].axes:
            raise NotLinear("a sum with a weight along the other axis")
        f = self._matrix(outer, None)
        r = self._matrix(self.said.inner[0][1], self.key)
        assert self.before_each is not None
        assert self.found_between is not None
        r = emit("Mul", r, f)
        found = emit("MatMul", emit("Mul", r, self.before_each), self._state())
        right = found if v is None else emit("Add", v, found)
        weighed = self._weighed(r, self.found_between)
        size = BY_KEY if self.by_key else SOLVED
        return emit("MatMul", triangular.inverse(emit, weighed, size, self.chunk.constant), right)

    # What comes of it ---------------------------------------------------------------------------------------------

    def read(self, said: Linear, sizes: Iterable[int]) -> ir.Value:
        """The sum q S' of a turn, for all tokens: rows are (token, batch), of `sizes` behind."""
        assert said.axis is not None
        self.prepare(said.axis)
        if len(said.inner) != 1 or said.free:
            raise NotLinear("a sum of several parts")
        outer, summed = said.inner[0]
        if (outer.axes | summed.axes) & {self.value_axis} or said.axis in outer.axes:
            raise NotLinear("a result with a weight along the other axis")
        order = [axis for dim in said.dims for axis in dim]
        if order != [axis for axis in (0, self.head, self.value_axis) if axis is not None]:
            raise NotLinear("a result with its axes turned")
        emit = self.emit
        q = self._matrix(summed, self.key)
        if outer.factors or outer.sign < 0:
            q = emit("Mul", q, self._matrix(outer, None))
        result = emit("MatMul", emit("Mul", q, self.to_each), self._state())
        result = emit("Add", result, emit("MatMul", self._weighed(q, self.between), self.w))
        return emit("Reshape", emit("Transpose", result, perm=[2, 0, 1, 3]), [-1, *sizes])

    def whole(self) -> ir.Value:
        """S' of every token, as rows: where nothing but the elements themselves is to be had."""
        if self.key is not None or self.said.inner:
            raise NotLinear("a state that is read as a whole")
        if self.all is None:
            emit, rank = self.emit, len(self.said.sizes)
            axes = tuple(range(1, rank))
            decay = self.placing.elements(self.said.whole[0], axes)
            written = folded(emit, "Add", [self.placing.elements(product, axes) for product in self.said.free])
            full = emit("Concat", self.chunk.extent, emit("Shape", self.before, start=1), axis=0)
            each = emit("Expand", decay, full), emit("Expand", written, full)
            if self.chunk.may_loop:
                self.all = elements.by_turns(emit, self.before, *each, self.said.sizes[1:])
            else:
                self.all = elements.by_doubling(emit, self.before, *each, ELEMENTS)
        return self.emit("Reshape", self.all, [-1, *(int(size) for size in self.said.sizes[1:])])

    def last(self) -> ir.Value:
        """The state behind the chunk, in its own axes."""
        emit = self.emit
        if self.key is None and self.all is None:
            self._unread()
        if self.all is not None:
            return self._last_of_all(self.all)
        # The last row of decays; where the chunk ends in padding, nothing decays any more.
        end = emit("Slice", self.to_each, [-1], [1 << 62], [2])
        between = emit("Slice", self.between, [-1], [1 << 62], [2])
        if self.by_key:
            weighed = emit("Transpose", emit("Mul", self.p, emit("Squeeze", between, [2])), perm=[0, 1, 3, 2])
            kept = emit("Mul", self._state(), emit("Transpose", end, perm=[0, 1, 3, 2]))
        else:
            weighed, kept = emit("Mul", self.pT, between), emit("Mul", self._state(), end)
        return self._back(emit("Add", kept, emit("MatMul", weighed, self.w)))

    def _unread(self) -> None:
        """Nobody reads what the state becomes."""
        try:
            self.prepare(self.said.axis if self.said.axis is not None else len(self.said.sizes) - 1)
        except NotLinear:
            self.whole()

    def _last_of_all(self, every: ir.Value) -> ir.Value:
        emit = self.emit
        at = emit("Max", emit("Sub", self.chunk.count, 1), 0)
        row = emit("Range", 0, emit("Squeeze", emit("Shape", at)), 1)
        index = emit("Concat", emit("Unsqueeze", at, [1]), emit("Unsqueeze", row, [1]), axis=1)
        none = emit("Unsqueeze", emit("Equal", self.chunk.count, 0), list(range(1, len(self.said.sizes))))
        return emit("Where", none, self.before, emit("GatherND", every, index))

    # Axes -----------------------------------------------------------------------------------------------------------

    def _state(self) -> ir.Value:
        """The state as [B,H,K,V]."""
        made = self._turned(self.before)
        return made if self.head is not None else self.emit("Unsqueeze", made, [1])

    def _back(self, state: ir.Value) -> ir.Value:
        return self._turned(state if self.head is not None else self.emit("Squeeze", state, [1]))

    def _turned(self, state: ir.Value) -> ir.Value:
        """The state's last two axes as K and V, or back again."""
        assert self.key is not None
        if self.key < self.value_axis:
            return state
        order = list(range(len(self.said.sizes)))
        order[-1], order[-2] = order[-2], order[-1]
        return self.emit("Transpose", state, perm=order)

    def _matrix(self, product: Product, axis: int | None) -> ir.Value:
        return self.placing.matrix(product, self.head, axis)

    def _where_token(self, value: ir.Value) -> ir.Value:
        is_token = self.emit("Unsqueeze", self.chunk.is_token, [1, 3])
        return self.emit("Where", is_token, value, np.array(0, np.float32))
