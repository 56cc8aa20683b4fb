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


@dataclass(frozen=True, slots=True)
class Grid:
    """The steps that each block's weights may take: (number - zero) * scale. `scales` and `zeros` are [N, blocks]."""

    scales: np.ndarray
    zeros: np.ndarray
    bits: int
    block_size: int
    symmetric: bool

    def along(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero of each of these columns, [N, columns]."""
        block = columns // self.block_size
        return self.scales[:, block], self.zeros[:, block]

    def numbers(self, weight: np.ndarray) -> np.ndarray:
        """The nearest steps of a weight [N, K]; uint8."""
        scales, zeros = self.along(np.arange(weight.shape[1]))
        return nearest(weight, scales, zeros, self.bits)

    def values(self, numbers: np.ndarray) -> np.ndarray:
        scales, zeros = self.along(np.arange(numbers.shape[1]))
        return (numbers - zeros) * scales

    def blocks(self, numbers: np.ndarray) -> Blocks:
        """`numbers` [N, K] as MatMulNBits reads them; the last block is filled up with zeros, which stay exact."""
        rows, columns = numbers.shape
        count = self.scales.shape[1]
        padded = np.repeat(self.zeros.astype(np.uint8), self.block_size, axis=1)
        padded[:, :columns] = numbers
        packed = _pack(padded.reshape(rows, count, self.block_size), self.bits)
        zeros = None if self.symmetric else _pack(self.zeros.astype(np.uint8), self.bits).reshape(-1)
        return Blocks(packed, self.scales.astype(np.float32).reshape(-1), zeros)


def nearest(weight: np.ndarray, scales: np.ndarray, zeros: np.ndarray, bits: int) -> np.ndarray:
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    return np.clip(np.rint(weight * inverse) + zeros, 0, (1 << bits) - 1).astype(np.uint8)


def round_to_nearest(
    weight: np.ndarray, *, bits: int, block_size: int, symmetric: bool, hessian: np.ndarray | None = None
) -> Blocks:
    """Each weight to its nearest step; each block takes the scale, of a few, that loses least."""
    grid = fit_grid(weight, bits=bits, block_size=block_size, symmetric=symmetric, hessian=hessian)
    return grid.blocks(grid.numbers(weight))


def fit_grid(
    weight: np.ndarray, *, bits: int, block_size: int, symmetric: bool, hessian: np.ndarray | None = None
) -> Grid:
    """Scales that lose least: the mean squared error of the weights, or with a `hessian` [K, K] that of the outputs."""
    rows, columns = weight.shape
    blocks = -(-columns // block_size)
    scales = np.empty((rows, blocks), np.float32)
    zeros = np.empty((rows, blocks), np.float32)
    inner = None if hessian is None else _diagonal_blocks(hessian, blocks, block_size)
    step = max(1, _ROWS_AT_A_TIME // columns)
    search = _search_symmetric if symmetric else _search_asymmetric
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        padded = np.zeros((part.stop - start, blocks * block_size), np.float32)
        padded[:, :columns] = weight[part]
        scales[part], zeros[part] = search(padded.reshape(-1, blocks, block_size), bits, inner)
    return Grid(scales, zeros, bits, block_size, symmetric)


def restore(blocks: Blocks, *, bits: int, columns: int) -> np.ndarray:
    """The weights that the integers stand for, [N, columns]."""
    numbers = _unpack(blocks.packed, bits).astype(np.float32)
    rows, count, _ = numbers.shape
    zeros = np.full((rows, count), 1 << (bits - 1), np.float32)
    if blocks.zero_points is not None:
        zeros = _unpack(blocks.zero_points.reshape(rows, -1), bits)[:, :count].astype(np.float32)
    return ((numbers - zeros[..., None]) * blocks.scales.reshape(rows, count, 1)).reshape(rows, -1)[:, :columns]


def _diagonal_blocks(hessian: np.ndarray, blocks: int, block_size: int) -> np.ndarray:
    """[blocks, block_size, block_size]: how the weights of one block count, and one with another."""
    found = np.zeros((blocks, block_size, block_size), np.float32)
    for at in range(blocks):
        part = hessian[at * block_size : (at + 1) * block_size, at * block_size : (at + 1) * block_size]
        found[at, : len(part), : len(part)] = part
    return found


def _search_symmetric(weights: np.ndarray, bits: int, inner: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The integers reach one step further down than up, so the scale's sign turns the largest weight downwards."""
    half = 1 << (bits - 1)
    largest = np.take_along_axis(weights, np.abs(weights).argmax(-1)[..., None], -1)[..., 0]
    middle = np.full(largest.shape, half, np.float32)
    return _search(weights, largest / -half, middle, bits, inner), middle


def _search_asymmetric(weights: np.ndarray, bits: int, inner: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    lowest, highest = np.minimum(weights.min(-1), 0), np.maximum(weights.max(-1), 0)
    scale = (highest - lowest) / ((1 << bits) - 1)
    zeros = np.rint(-lowest / np.where(scale == 0, 1, scale))
    return _search(weights, scale, zeros, bits, inner), zeros


def _search(
    weights: np.ndarray, scale: np.ndarray, zeros: np.ndarray, bits: int, inner: np.ndarray | None
) -> np.ndarray:
    """Of the scale and some smaller ones, which cut off the largest weights, the one with the least error per block."""
    best_error = np.full(scale.shape, np.inf, np.float32)
    best_scale = np.empty(scale.shape, np.float32)
    for factor in np.linspace(1.0, 1.0 - 2.0 ** (2 - bits), _CANDIDATES, dtype=np.float32):
        candidate = (scale * factor).astype(np.float32)
        numbers = nearest(weights, candidate[..., None], zeros[..., None], bits)
        lost = (numbers - zeros[..., None]) * candidate[..., None] - weights
        if inner is None:
            error = np.square(lost).sum(-1)
        else:
            turned = lost.transpose(1, 0, 2)
            error = ((turned @ inner) * turned).sum(-1).T
        better = error < best_error
        best_error[better] = error[better]
        best_scale[better] = candidate[better]
    return best_scale


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
