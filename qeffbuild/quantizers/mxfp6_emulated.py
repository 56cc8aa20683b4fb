"""Weights as a device stores them in MXFP6, emulated: e2m3, 32 to a shared power of two.

Computed in float32 from the rounded weights: it says what the format does to accuracy, and makes nothing smaller here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BITS = 6
CHOICES = (6,)
BLOCK_SIZE = 32
CALIBRATED = False


def emulate(weight: np.ndarray) -> np.ndarray:
    """`weight` is [N, K]; blocks run along K."""
    from qeffbuild.graph.microscaling import E2M3, round_blocks

    return round_blocks(weight, E2M3)
