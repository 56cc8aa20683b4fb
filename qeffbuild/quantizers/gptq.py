"""Weights in 4 (or 8) bits, rounded so that the product's output changes least on a calibration text (GPTQ).

Columns go by the size of their inputs ("act order"), but blocks stay where they are ("static groups"): no permutation
is left to undo when the model runs. Each layer aims at the exact model's output from the inputs that the quantized
layers before give it (after GPTAQ, Li et al. 2025), and coordinate descent goes over the result (calibration/solve.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from qeffbuild.calibration.seen import Seen
    from qeffbuild.graph.blocks import Blocks

BITS = 4
CHOICES = (4, 8)
BLOCK_SIZE = 128
CALIBRATED = True


def quantize(weight: np.ndarray, *, bits: int, block_size: int, symmetric: bool, seen: Seen) -> Blocks:
    """`weight` is [N, K], the scales run along K."""
    from qeffbuild.calibration.solve import aim, descend, gptq
    from qeffbuild.graph.blocks import fit_grid

    wanted = aim(weight, seen)
    grid = fit_grid(wanted, bits=bits, block_size=block_size, symmetric=symmetric, hessian=seen.hessian)
    grid, numbers = descend(wanted, seen.hessian, grid, gptq(wanted, seen.hessian, grid))
    return grid.blocks(numbers)
