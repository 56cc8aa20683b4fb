"""Integers in blocks that a graph multiplies by, held against the weights that they were rounded from.

How far a whole graph is from PyTorch says little at 4 bits, where honest rounding goes as far as one wrong weight of
the last layer. How far a block of weights is from what was rounded says it of each: a block that is another one's is as
far away as it is large, or farther.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.calibration.apply import names_of
from qeffbuild.graph.blocks import Blocks, restore
from qeffbuild.graph.fold import compute
from qeffbuild.graph.products import Product, as_rows, products
from qeffbuild.graph.weights import Weights

# Steps and sizes beyond both of which a block is another one's: honest ones were seen up to 0.5 steps, with a
# calibration text up to 3.6 steps and 1 size (where layers before give almost anything: random weights in 4 bits
# that choose tokens by an indexer). Another block of the same matrix is 1.4 sizes away.
NEAREST, CALIBRATED = (0.8, 0.0), (2.0, 1.2)
_NUMBERS = ".numbers"
_ROWS = 1024  # that are compared at a time
_Matrices = Sequence[np.ndarray]


@dataclass(frozen=True, slots=True)
class Rounded:
    """A product, and of its worst block the root of the mean squared error: in steps of its scale, and in its size."""

    name: str
    steps: float
    size: float


def is_off(found: Rounded, *, calibrated: bool) -> bool:
    """To the nearest step is half a step at most, two thirds where a smaller scale cuts off the largest weights.

    With a calibration text, errors are made good that other weights and the layers before have: that may be many steps.
    """
    most, size = CALIBRATED if calibrated else NEAREST
    return not (found.steps <= most or found.size <= size)


def rounded(
    graph: ir.Graph, before: ir.Graph, weights: Weights, stored: Mapping[tuple[str, int], str]
) -> Iterator[Rounded]:
    """Of each product in integers of `graph` whose weight is known in `before`, the graph that was quantized."""
    exact, known = _by_name(before, stored), dict[str, list[_Matrices]]()

    def matrices(base: str) -> list[_Matrices]:
        """Of each product that is part of a stored weight; the last one's are kept, as all its experts ask for them."""
        if base not in known:
            known.clear()
            known[base] = [as_rows(each, compute(each.weight, weights)) for each in exact[base]]
        return known[base]

    for node in graph.all_nodes():
        numbers = node.inputs[1] if node.op_type == "MatMulNBits" else None
        if numbers is None:
            continue
        parts = [part for part in _parts(numbers) if part.endswith(_NUMBERS)]
        names = [part.removesuffix(_NUMBERS).rsplit(".", 2) for part in parts]
        if not names or not all(len(each) == 3 and each[0] in exact for each in names):
            continue
        wanted = [[each[int(at)] for each in matrices(base) if int(at) < len(each)] for base, _, at in names]
        yield _compared(names[0][0], node, *_restored(node, weights), wanted)


def _parts(value: ir.Value) -> Iterator[str]:
    """Names of the stored tensors that it is put together of, in their order."""
    maker = value.producer()
    if maker is None:
        yield value.name or ""
        return
    for part in maker.inputs:
        if part is not None:
            yield from _parts(part)


def _by_name(graph: ir.Graph, stored: Mapping[tuple[str, int], str]) -> dict[str, list[Product]]:
    """Several products may be parts of one stored weight."""
    found: dict[str, list[Product]] = {}
    for product in products(graph):
        found.setdefault(names_of(product, stored)[0], []).append(product)
    return found


def _restored(node: ir.Node, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Its weights [N, K], and the scale of each block [N, blocks]."""
    arrays = [None if value is None else np.asarray(compute(value, weights)) for value in node.inputs[1:4]]
    packed, scales, zeros = (*arrays, None)[:3]
    assert packed is not None
    assert scales is not None
    rows, columns, bits = (node.attributes[name].as_int() for name in ("N", "K", "bits"))
    blocks = Blocks(packed.reshape(rows, -1, packed.shape[-1]), scales.astype(np.float32).reshape(-1), zeros)
    return restore(blocks, bits=bits, columns=columns), blocks.scales.reshape(rows, -1)


def _compared(name: str, node: ir.Node, found: np.ndarray, scales: np.ndarray, wanted: Sequence[_Matrices]) -> Rounded:
    """Of weights that lie behind one another, the worst; of several parts that it may be, the nearest."""
    size, start, worst = node.attributes["block_size"].as_int(), 0, (0.0, 0.0)
    for candidates in wanted:
        rows = slice(start, start := start + candidates[0].shape[0])
        like = [each for each in candidates if each.shape == found[rows].shape]
        errors = [_error(found[rows], each, scales[rows], size) for each in like]
        worst = max(worst, min(errors, default=(math.inf, math.inf)))
    return Rounded(name, *worst)


def _error(found: np.ndarray, wanted: np.ndarray, scales: np.ndarray, size: int) -> tuple[float, float]:
    """A column may be scaled as a whole: its input is divided by as much."""
    pieces = [slice(start, start + _ROWS) for start in range(0, len(found), _ROWS)]
    here, there = (sum(np.square(each[rows], dtype=np.float32).sum(0) for rows in pieces) for each in (found, wanted))
    factors = np.sqrt(np.divide(here, there, out=np.ones_like(here), where=there > 0))
    return max(_worst(found[rows], wanted[rows] * factors, np.abs(scales[rows]), size) for rows in pieces)


def _worst(found: np.ndarray, wanted: np.ndarray, scales: np.ndarray, size: int) -> tuple[float, float]:
    starts = np.arange(0, found.shape[1], size)
    counts = np.diff([*starts, found.shape[1]])
    error, large = (
        np.sqrt(np.add.reduceat(np.square(each), starts, axis=1) / counts) for each in (found - wanted, found)
    )
    steps = np.divide(error, scales, out=np.where(error > 0, np.inf, 0.0), where=scales != 0)
    at = np.unravel_index(np.argmax(steps), steps.shape)
    return float(steps[at]), float(error[at] / large[at]) if large[at] > 0 else math.inf
