"""Triangular matrices over the tokens of a chunk: what comes before what, and what solves for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter


def lower(size: int, diagonal: int = 0) -> np.ndarray:
    """1 at and below a diagonal."""
    return np.tri(size, k=diagonal, dtype=np.float32)


def inverse(emit: Emitter, t: ir.Value, size: int, constant: Callable[[str, np.ndarray], ir.Value]) -> ir.Value:
    """(1 - t)^-1 of a strictly lower triangular t, by halves: known blocks of 1, 2, 4 ... give twice as large ones.

    t has at most `size` rows; `constant` cuts a table to as many as there are. A power series would be shorter, and
    would cancel where keys resemble each other.
    """
    one = constant(f"one.{size}", np.eye(size, dtype=np.float32))
    made, block = emit("Add", emit("Mul", t, constant(f"halves.{size}.1", _halves(size, 1))), one), 2
    while block < size:
        across = emit("Mul", t, constant(f"halves.{size}.{block}", _halves(size, block)))
        made = emit("Add", made, emit("MatMul", emit("MatMul", made, across), made))
        block *= 2
    return made


def _halves(size: int, block: int) -> np.ndarray:
    """1 where the row is in the second half of a pair of blocks and the column in the first half of the same pair."""
    at = np.arange(size)
    pair, half = at // (2 * block), at // block % 2
    return ((pair[:, None] == pair) & (half[:, None] == 1) & (half == 0)).astype(np.float32)
