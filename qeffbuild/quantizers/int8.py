"""Weights in 8 bits, rounded to the nearest of 256 steps of a scale that each block of weights shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from qeffbuild.graph.blocks import Blocks

BITS = 8
CHOICES = (8,)
BLOCK_SIZE = 32
CALIBRATED = False


def quantize(weight: np.ndarray, *, bits: int = BITS, block_size: int = BLOCK_SIZE, symmetric: bool = True) -> Blocks:
    """`weight` is [N, K], the scales run along K."""
    from qeffbuild.graph.blocks import round_to_nearest

    return round_to_nearest(weight, bits=bits, block_size=block_size, symmetric=symmetric)
