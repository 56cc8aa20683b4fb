"""Weights in 4 (or 8) bits; scale and zero of each block by half-quadratic splitting, without any text (HQQ).

The error is measured in a norm that forgives single large weights (Badri and Shaji 2023). Zero points are whole numbers
here, which is what MatMulNBits computes fastest with; with symmetric=true only the scale is searched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from qeffbuild.graph.blocks import Blocks, Grid

BITS = 4
CHOICES = (4, 8)
BLOCK_SIZE = 64
CALIBRATED = False
_ROUNDS, _NORM, _BETA, _GROWTH = 20, 0.7, 10.0, 1.01  # the authors' values


def quantize(weight: np.ndarray, *, bits: int = BITS, block_size: int = BLOCK_SIZE, symmetric: bool = True) -> Blocks:
    """`weight` is [N, K], the scales run along K."""
    from dataclasses import replace

    import numpy as np

    from qeffbuild.graph.blocks import fit_grid

    grid = fit_grid(weight, bits=bits, block_size=block_size, symmetric=symmetric)
    rows, columns = weight.shape
    count = grid.scales.shape[1]
    padded = np.zeros((rows, count * block_size), np.float32)
    padded[:, :columns] = weight
    typical = float(np.abs(weight).mean()) or 1.0
    beta, best, least = _BETA, grid, np.full((rows, count), np.inf, np.float32)
    for _ in range(_ROUNDS):
        numbers = grid.numbers(padded).astype(np.float32)
        lost = padded - grid.values(numbers)
        error = (np.abs(lost).reshape(rows, count, block_size) ** _NORM).sum(-1)
        better = error < least
        least = np.where(better, error, least)
        best = replace(
            best, scales=np.where(better, grid.scales, best.scales), zeros=np.where(better, grid.zeros, best.zeros)
        )
        size = np.abs(lost) / typical
        forgiven = np.sign(lost) * np.maximum(size - size.clip(1e-8) ** (_NORM - 1) / beta, 0) * typical
        grid = _refit(grid, (padded - forgiven).reshape(rows, count, -1), numbers.reshape(rows, count, -1))
        beta *= _GROWTH
    return best.blocks(best.numbers(weight))


def _refit(grid: Grid, wanted: np.ndarray, numbers: np.ndarray) -> Grid:
    """The zero and then the scale that bring these integers nearest to what is wanted."""
    from dataclasses import replace

    import numpy as np

    zeros = grid.zeros
    if not grid.symmetric:
        inverse = np.divide(1, grid.scales, out=np.zeros_like(grid.scales), where=grid.scales != 0)
        zeros = np.clip(np.rint((numbers - wanted * inverse[..., None]).mean(-1)), 0, (1 << grid.bits) - 1)
    steps = numbers - zeros[..., None]
    size = (steps * steps).sum(-1)
    fitted = np.divide((steps * wanted).sum(-1), size, out=np.zeros_like(size), where=size != 0)
    return replace(grid, scales=np.where(size == 0, grid.scales, fitted).astype(np.float32), zeros=zeros)
