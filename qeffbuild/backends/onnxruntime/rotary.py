"""A query or key of the neutral graph -> what it was before its rotation, and the rotation's angles.

Models spell rotations in a dozen ways, so none is matched: what lies between a projection and the attention is run on
random numbers, and its angles are solved for. N heads, S tokens, D width of a head, R rotated numbers of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.ops import size_of
from qeffbuild.graph.probe import Ancestry, evaluate

_MOST_NODES = 64
_POSITIONS = np.array([[3, 811, 40, 1], [0, 17, 96, 5003]])
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Table:
    """Cosines or sines [B, S, R / 2] of a run's tokens: numbers `start::step` of a value's last axis."""

    value: ir.Value
    start: int
    stop: int
    step: int

    def emit(self, emit: Emitter) -> ir.Value:
        """One row for each token of the run: [B * S, R / 2]."""
        half = (self.stop - self.start + self.step - 1) // self.step
        part = self.value
        if size_of(part, -1) != half:
            part = emit("Slice", part, [self.start], [self.stop], [-1], [self.step])
        return emit("Reshape", part, [-1, half])


@dataclass(frozen=True, slots=True)
class Rotation:
    """`plain` is turned by these angles; `width` numbers of each head are, in halves or (interleaved) in pairs."""

    plain: ir.Value
    heads_first: bool  # whether `plain` is [B, N, S, D], or [B, S, N, D]
    cosines: Table
    sines: Table
    width: int
    is_interleaved: bool

    @property
    def angles(self) -> tuple[Table, Table, int, bool]:
        return self.cosines, self.sines, self.width, self.is_interleaved


def recognise(turned: ir.Value, ancestry: Ancestry, position_ids: ir.Value, opset: int) -> Rotation | None:
    """The rotation that ends in `turned` [B, N, S, D], or None if none does."""
    found = _before(turned, ancestry, position_ids)
    if found is None:
        return None
    plain, tables = found
    heads, width = size_of(turned, 1), size_of(turned, 3)
    heads_first = plain.shape is not None and plain.shape[1] == heads and plain.shape[3] == width
    if not heads_first and (plain.shape is None or plain.shape[2] != heads or plain.shape[3] != width):
        return None
    batch, tokens = _POSITIONS.shape
    x = np.random.default_rng(0).standard_normal((batch, heads, tokens, width)).astype(np.float32)
    given = {plain: x if heads_first else x.transpose(0, 2, 1, 3), position_ids: _POSITIONS}
    given |= {value: np.zeros(_POSITIONS.shape, np.int64) for value in _token_inputs(tables, position_ids)}
    try:
        y, *contents = evaluate([turned, *tables], given, opset)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError):
        return None
    return next(_fits(x, y, plain, heads_first, dict(zip(tables, contents, strict=True))), None)


def _before(turned: ir.Value, ancestry: Ancestry, position_ids: ir.Value) -> tuple[ir.Value, list[ir.Value]] | None:
    """The nearest value that all of `turned` is made from, positions apart, and what of the positions comes in."""
    open_, tables = {turned}, dict[ir.Value, None]()
    for _ in range(_MOST_NODES):
        value = max(open_, key=lambda value: ancestry.order.get(value.producer(), -1))  # type: ignore[arg-type]
        node = value.producer()
        if node is None:
            return None
        open_.discard(value)
        for above in node.inputs:
            read = ancestry.inputs_of(above) if above is not None else frozenset()
            if read == {position_ids}:
                tables[above] = None  # type: ignore[index]
            elif read != frozenset():
                open_.add(above)  # type: ignore[arg-type]
        if len(open_) == 1 and tables:
            (plain,) = open_
            return (plain, list(tables)) if plain.shape is not None and len(plain.shape) == 4 else None
        if not open_:
            return None
    return None


def _fits(
    x: np.ndarray, y: np.ndarray, plain: ir.Value, heads_first: bool, tables: dict[ir.Value, np.ndarray]
) -> Iterator[Rotation]:
    """The readings of y as x turned: R is where the numbers stop changing."""
    if y.shape != x.shape:
        return
    changed = np.flatnonzero((x != y).any(axis=(0, 1, 2)))
    width = int(changed[-1]) + 1 if len(changed) else 0
    if not width or width % 2:
        return
    half = width // 2
    for is_interleaved in (False, True):
        first, second = (
            (slice(0, width, 2), slice(1, width, 2)) if is_interleaved else (slice(0, half), slice(half, width))
        )
        x1, x2, y1, y2 = x[..., first], x[..., second], y[..., first], y[..., second]
        length = x1 * x1 + x2 * x2
        cosines, sines = (x1 * y1 + x2 * y2) / length, (x1 * y2 - x2 * y1) / length
        # One angle for all heads, or it is no rotation of ours.
        if not (_same(cosines, cosines[:, :1]) and _same(sines, sines[:, :1])):
            continue
        cosine, sine = _table(cosines[:, 0], tables), _table(sines[:, 0], tables)
        if cosine is not None and sine is not None:
            yield Rotation(plain, heads_first, cosine, sine, width, is_interleaved)


def _table(wanted: np.ndarray, tables: dict[ir.Value, np.ndarray]) -> Table | None:
    """Where these numbers are to be had."""
    batch, tokens, half = wanted.shape
    for value, content in tables.items():
        if value.shape is None or content.size % (batch * tokens) or content.shape[0] != batch:
            continue
        flat = content.reshape(batch, tokens, -1)
        for stop, step in ((half, 1), (2 * half, 2)):
            if flat.shape[-1] >= stop and content.shape[-1] == flat.shape[-1] and _same(flat[..., :stop:step], wanted):
                return Table(value, 0, stop, step)
    return None


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(left - right).max() < _TOLERANCE * max(1.0, float(np.abs(right).max())))


def _token_inputs(tables: list[ir.Value], position_ids: ir.Value) -> list[ir.Value]:
    """Inputs of which the tables only know the shape: [batch_size, seq_len], as position_ids."""
    seen: set[ir.Value] = set()
    waiting = list(tables)
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value in seen:
            continue
        seen.add(value)
        waiting += [above for above in node.inputs if above is not None] if node is not None else []
    return [v for v in seen if v.is_graph_input() and v is not position_ids and v.shape == position_ids.shape]
