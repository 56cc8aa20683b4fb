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


INTEGERS: Mapping[str, Callable[[np.ndarray], Taken]] = {"q4_0": q4_0, "q5_0": q5_0, "q6_k": q6_k, "q8_0": q8_0}


def floats(raw: np.ndarray, kind: str) -> np.ndarray:
    """Whatever else the gguf package knows."""
    from gguf import GGMLQuantizationType, dequantize

    return np.asarray(dequantize(raw, GGMLQuantizationType[kind]), np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """The low halves of 16 bytes come before the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _half(raw: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(raw).view(np.float16)[..., 0].astype(np.float32)
