"""A matrix of weights -> integers in blocks that share a scale, laid out as MatMulNBits reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROWS_AT_A_TIME = 1 << 20  # weights, not rows: what is searched at once stays in the processor's cache
_CANDIDATES = 6  # scales tried for each block


@dataclass(frozen=True, slots=True)
class Blocks:
    """A quantized [N, K]: `packed` uint8 [N, blocks, block_size * bits / 8], `scales` [N * blocks].

    A weight is (number - zero) * scale; without `zero_points` zero is 2 ** (bits - 1). Zero points of 4 bits lie two in
    a byte, each row starting a new byte.
    """

    packed: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scales.nbytes + (0 if self.zero_points is None else self.zero_points.nbytes)


def round_to_nearest(weight: np.ndarray, *, bits: int, block_size: int, symmetric: bool) -> Blocks:
    """Each weight to its nearest step; each block takes the scale, of a few, that loses least (mean squared error).

    The last block of a row is filled up with zeros, which stay exact.
    """
    rows, columns = weight.shape
    blocks = -(-columns // block_size)
    numbers = np.empty((rows, blocks, block_size), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zeros = np.empty((rows, blocks), np.uint8)
    step = max(1, _ROWS_AT_A_TIME // columns)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        padded = np.zeros((part.stop - start, blocks * block_size), np.float32)
        padded[:, :columns] = weight[part]
        search = _search_symmetric if symmetric else _search_asymmetric
        numbers[part], scales[part], zeros[part] = search(padded.reshape(-1, blocks, block_size), bits)
    zero_points = None if symmetric else _pack(zeros, bits).reshape(-1)
    return Blocks(_pack(numbers, bits), scales.reshape(-1), zero_points)


def restore(blocks: Blocks, *, bits: int, columns: int) -> np.ndarray:
    """The weights that the integers stand for, [N, columns]."""
    numbers = _unpack(blocks.packed, bits).astype(np.float32)
    rows, count, _ = numbers.shape
    zeros = np.full((rows, count), 1 << (bits - 1), np.float32)
    if blocks.zero_points is not None:
        zeros = _unpack(blocks.zero_points.reshape(rows, -1), bits)[:, :count].astype(np.float32)
    return ((numbers - zeros[..., None]) * blocks.scales.reshape(rows, count, 1)).reshape(rows, -1)[:, :columns]


def _search_symmetric(weights: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The integers reach one step further down than up, so the scale's sign turns the largest weight downwards."""
    half = 1 << (bits - 1)
    largest = np.take_along_axis(weights, np.abs(weights).argmax(-1)[..., None], -1)[..., 0]
    middle = np.full(largest.shape, half, np.float32)
    return _search(weights, largest / -half, middle, bits)


def _search_asymmetric(weights: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lowest, highest = np.minimum(weights.min(-1), 0), np.maximum(weights.max(-1), 0)
    scale = (highest - lowest) / ((1 << bits) - 1)
    zeros = np.rint(-lowest / np.where(scale == 0, 1, scale))
    return _search(weights, scale, zeros, bits)


def _search(
    weights: np.ndarray, scale: np.ndarray, zeros: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the scale and some smaller ones, which cut off the largest weights, the one with the least error per block."""
    best_error = np.full(scale.shape, np.inf, np.float32)
    best_numbers = np.empty(weights.shape, np.uint8)
    best_scale = np.empty(scale.shape, np.float32)
    for factor in np.linspace(1.0, 1.0 - 2.0 ** (2 - bits), _CANDIDATES, dtype=np.float32):
        candidate = (scale * factor).astype(np.float32)
        inverse = np.divide(1, candidate, out=np.zeros_like(candidate), where=candidate != 0)
        numbers = np.rint(weights * inverse[..., None]) + zeros[..., None]
        np.clip(numbers, 0, (1 << bits) - 1, out=numbers)
        error = np.square((numbers - zeros[..., None]) * candidate[..., None] - weights).sum(-1)
        better = error < best_error
        best_error[better] = error[better]
        best_scale[better] = candidate[better]
        best_numbers[better] = numbers[better].astype(np.uint8)
    return best_numbers, best_scale, zeros.astype(np.uint8)


def _pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of 4 bits two in a byte, the first one low."""
    if bits == 8:
        return numbers
    if numbers.shape[-1] % 2:
        numbers = np.concatenate([numbers, np.zeros_like(numbers[..., :1])], axis=-1)
    return numbers[..., 0::2] | (numbers[..., 1::2] << 4)


def _unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
