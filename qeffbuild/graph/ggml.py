"""Blocks as llama.cpp stores them -> integers with a scale for each group, or floats.

uint8 [N, bytes of a row]. Layouts after ggml's `ggml-common.h`: a block begins with its scale in float16 unless said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

# Numbers [N, K], what is taken off them, scales [N, K / group].
Taken = tuple[np.ndarray, int, np.ndarray]


def q4_0(raw: np.ndarray) -> Taken:
    blocks = raw.reshape(len(raw), -1, 18)
    return _nibbles(blocks[..., 2:]).reshape(len(raw), -1), 8, _half(blocks[..., :2])


def q5_0(raw: np.ndarray) -> Taken:
    """The fifth bits of all 32 lie together behind the scale."""
    blocks = raw.reshape(len(raw), -1, 22)
    fifth = np.unpackbits(blocks[..., 2:6], axis=-1, bitorder="little")
    return (_nibbles(blocks[..., 6:]) | (fifth << 4)).reshape(len(raw), -1), 16, _half(blocks[..., :2])


def q8_0(raw: np.ndarray) -> Taken:
    blocks = raw.reshape(len(raw), -1, 34)
    return (blocks[..., 2:] ^ 128).reshape(len(raw), -1), 128, _half(blocks[..., :2])


def q6_k(raw: np.ndarray) -> Taken:
    """256 weights: low halves, high pairs, 16 scales in int8, and last the scale of those."""
    blocks = raw.reshape(len(raw), -1, 210)
    low = blocks[..., :128].reshape(*blocks.shape[:2], 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None] & 15
    high = blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    numbers = low.reshape(len(raw), -1) | (high.reshape(len(raw), -1) << 4)
    scales = blocks[..., 192:208].view(np.int8).astype(np.float32) * _half(blocks[..., 208:])[..., None]
    return numbers, 32, scales.reshape(len(raw), -1)


def q3_k(raw: np.ndarray) -> Taken:
    """256 weights: high bits, low pairs, 16 scales of 6 bits (low halves before high pairs), and the scale of those."""
    blocks = raw.reshape(len(raw), -1, 110)
    turns = np.arange(8, dtype=np.uint8)[:, None]
    high = blocks[..., None, :32] >> turns & 1
    low = blocks[..., 32:96].reshape(*blocks.shape[:2], 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    numbers = low.reshape(*blocks.shape[:2], 8, 32) | (high << 2)
    halves = blocks[..., 96:104]
    halves = np.concatenate([halves & 15, halves >> 4], axis=-1)
    pairs = (blocks[..., None, 104:108] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(halves.shape)
    scales = ((halves | (pairs << 4)).astype(np.float32) - 32) * _half(blocks[..., 108:])[..., None]
    return numbers.reshape(len(raw), -1), 4, scales.reshape(len(raw), -1)


def iq4_nl(raw: np.ndarray) -> Taken:
    """Places in a table of whole numbers."""
    blocks = raw.reshape(len(raw), -1, 18)
    return _LEVELS[_nibbles(blocks[..., 2:])].reshape(len(raw), -1), 128, _half(blocks[..., :2])


def iq4_xs(raw: np.ndarray) -> Taken:
    """256 weights: their scale, high pairs and low halves of 8 scales, then places in the same table."""
    blocks = raw.reshape(len(raw), -1, 136)
    low = np.stack([blocks[..., 4:8] & 15, blocks[..., 4:8] >> 4], axis=-1).reshape(*blocks.shape[:2], 8)
    pairs = (blocks[..., 2:4, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(low.shape)
    scales = ((low | (pairs << 4)).astype(np.float32) - 32) * _half(blocks[..., :2])[..., None]
    places = _nibbles(blocks[..., 8:].reshape(*blocks.shape[:2], 8, 16))
    return _LEVELS[places].reshape(len(raw), -1), 128, scales.reshape(len(raw), -1)


def mxfp4(raw: np.ndarray) -> Taken:
    """e2m1 in halves is a whole number; the scale is a power of two."""
    blocks = raw.reshape(len(raw), -1, 17)
    scales = np.ldexp(np.float32(0.5), blocks[..., 0].astype(np.int32) - 127)
    return _E2M1[_nibbles(blocks[..., 1:])].reshape(len(raw), -1), 128, scales


# Both with 128 added.
_LEVELS = np.array([1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241], np.uint8)
_E2M1 = np.array([128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116], np.uint8)
INTEGERS: Mapping[str, Callable[[np.ndarray], Taken]] = {
    "iq4_nl": iq4_nl, "iq4_xs": iq4_xs, "mxfp4": mxfp4, "q3_k": q3_k, "q4_0": q4_0, "q5_0": q5_0, "q6_k": q6_k,
    "q8_0": q8_0,
}  # fmt: skip


def floats(raw: np.ndarray, kind: str) -> np.ndarray:
    """Whatever else the gguf package knows."""
    from gguf import GGMLQuantizationType, dequantize

    return np.asarray(dequantize(raw, GGMLQuantizationType[kind]), np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """The low halves of 16 bytes come before the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _half(raw: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(raw).view(np.float16)[..., 0].astype(np.float32)
