"""Weights in 4 (or 8) bits, their columns scaled up where inputs are large, which are scaled down to match (AWQ).

The exponent of the scales is searched for each input of matrix products on a calibration text, and so is how far each
block's scale cuts off its largest weights; both by the error of the outputs (Lin et al. 2023). What is rounded is not
the weight itself but the one that gives the exact model's output from the inputs that quantized layers before give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from qeffbuild.calibration.seen import Seen
    from qeffbuild.graph.blocks import Blocks

BITS = 4
CHOICES = (4, 8)
BLOCK_SIZE = 128
CALIBRATED = True
_STEPS = 20  # exponents tried, from 0 to 1


def scale_inputs(
    weights: Sequence[np.ndarray], seen: Seen, *, bits: int, block_size: int, symmetric: bool
) -> np.ndarray | None:
    """Factors [K] of the columns of all weights that read one input; None where none is better than one."""
    import numpy as np

    from qeffbuild.graph.blocks import restore, round_to_nearest

    best, best_loss = None, np.inf
    for step in range(_STEPS):
        factors = np.maximum(seen.magnitude, 1e-8) ** (step / _STEPS)
        factors = (factors / np.sqrt(factors.max() * factors.min())).astype(np.float32)
        lost = 0.0
        for weight in weights:
            scaled = round_to_nearest(weight * factors, bits=bits, block_size=block_size, symmetric=symmetric)
            error = restore(scaled, bits=bits, columns=weight.shape[1]) / factors - weight
            lost += float(((error @ seen.hessian) * error).sum())
        if lost < best_loss:
            best, best_loss = (factors if step else None), lost
    return best


def quantize(weight: np.ndarray, *, bits: int, block_size: int, symmetric: bool, seen: Seen) -> Blocks:
    """`weight` is [N, K], its columns scaled already; `seen` says what reaches it then."""
    from qeffbuild.calibration.solve import aim
    from qeffbuild.graph.blocks import round_to_nearest

    wanted = aim(weight, seen)
    return round_to_nearest(wanted, bits=bits, block_size=block_size, symmetric=symmetric, hessian=seen.hessian)
