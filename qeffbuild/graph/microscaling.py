"""Block formats of the OCP Microscaling specification (v1.0), rounded to and back to floats: what a device would read.

32 values in a row share a scale, a power of two (E8M0); each is a small float or integer. Rounding is to the nearest,
halves to even; what is too large for an element becomes its largest. Source: "OCP Microscaling Formats (MX)
Specification", sections 5 and 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 32


@dataclass(frozen=True, slots=True)
class Element:
    """`largest_exponent` is that of the largest number, `smallest_exponent` that below which numbers lie evenly."""

    mantissa_bits: int
    largest_exponent: int
    smallest_exponent: int
    largest: float


E4M3 = Element(3, 8, -6, 448.0)  # the OCP 8-bit float without infinities
E3M2 = Element(2, 4, -2, 28.0)
E2M3 = Element(3, 2, 0, 7.5)
E2M1 = Element(1, 2, 0, 6.0)
INT8 = Element(6, 0, 0, 127 / 64)  # whole numbers of sixty-fourths


def round_blocks(values: np.ndarray, element: Element) -> np.ndarray:
    """Values [..., K] as a device reads them back; blocks run along the last axis, the last may be short."""
    columns = values.shape[-1]
    padded = np.zeros((*values.shape[:-1], -(-columns // BLOCK) * BLOCK), np.float32)
    padded[..., :columns] = values
    blocks = padded.reshape(*values.shape[:-1], -1, BLOCK)
    exponent = _exponent(np.abs(blocks).max(-1, keepdims=True)) - element.largest_exponent
    scale = np.ldexp(np.float32(1), np.clip(exponent, -127, 127))
    rounded = round_elements(blocks / scale, element) * scale
    return rounded.reshape(padded.shape)[..., :columns].astype(np.float32)


def round_elements(values: np.ndarray, element: Element) -> np.ndarray:
    """Each value to the nearest number of the format."""
    exponent = np.maximum(_exponent(np.abs(values)), element.smallest_exponent)
    step = np.ldexp(np.float32(1), exponent - element.mantissa_bits)
    return np.clip(np.rint(values / step) * step, -element.largest, element.largest).astype(np.float32)


def round_rows(values: np.ndarray, element: Element) -> np.ndarray:
    """One float scale per row [N, K], its largest value on the format's largest: how fp8 weights are stored."""
    scale = (np.abs(values).max(-1, keepdims=True) / element.largest).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))  # a row of zeros, or of the very smallest numbers
    return round_elements(values / scale, element) * scale


def _exponent(values: np.ndarray) -> np.ndarray:
    """The power of two at or below each value, exactly; the smallest for zero."""
    _, exponent = np.frexp(values)
    return np.where(values > 0, exponent - 1, -127)
