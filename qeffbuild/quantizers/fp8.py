"""Weights as 8-bit floats (e4m3) with a scale per row, emulated.

Computed in float32 from the rounded weights: it says what the format does to accuracy, and makes nothing smaller here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BITS = 8
CHOICES = (8,)
BLOCK_SIZE = None
CALIBRATED = False


def emulate(weight: np.ndarray) -> np.ndarray:
    """`weight` is [N, K]; blocks run along K."""
    from qeffbuild.graph.microscaling import E4M3, round_rows

    return round_rows(weight, E4M3)
