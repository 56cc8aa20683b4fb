"""Quantized weights come back within half a step, pack as ONNX Runtime reads them, and searched scales lose less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qeffbuild import quantizers
from qeffbuild.errors import SpecError
from qeffbuild.graph.blocks import restore

METHODS = ["int4", "int8"]


def relative_error(weight: np.ndarray, bits: int, block_size: int, symmetric: bool) -> float:
    blocks = quantizers.find(f"int{bits}").quantize(weight, bits=bits, block_size=block_size, symmetric=symmetric)
    lost = restore(blocks, bits=bits, columns=weight.shape[1]) - weight
    return float(np.linalg.norm(lost) / np.linalg.norm(weight))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("bits", "block_size", "most"), [(8, 32, 0.006), (8, 128, 0.008), (4, 32, 0.095), (4, 128, 0.12)]
)
def test_normal_weights_lose_little(bits: int, block_size: int, most: float, symmetric: bool) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 300)).astype(np.float32)

    assert relative_error(weight, bits, block_size, symmetric) < most


@pytest.mark.parametrize("bits", [4, 8])
def test_searched_scales_lose_less_than_the_largest_weight_asks_for(bits: int) -> None:
    weight = np.random.default_rng(1).standard_normal((32, 256)).astype(np.float32)
    blocks = weight.reshape(32, -1, 32)
    step = np.abs(blocks).max(-1, keepdims=True) / (2 ** (bits - 1) - 1)
    plain = np.linalg.norm(np.rint(blocks / step) * step - blocks) / np.linalg.norm(blocks)

    assert relative_error(weight, bits, 32, symmetric=True) < plain


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 70),
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_no_weight_is_further_off_than_what_the_unsearched_scale_would_lose(
    rows: int, columns: int, bits: int, symmetric: bool, scale: float, seed: int
) -> None:
    weight = (np.random.default_rng(seed).standard_normal((rows, columns)) * scale).astype(np.float32)

    found = quantizers.find(f"int{bits}").quantize(weight, bits=bits, block_size=16, symmetric=symmetric)

    blocks = -(-columns // 16)
    assert found.packed.shape == (rows, blocks, 16 * bits // 8)
    assert found.packed.dtype == np.uint8
    assert found.scales.shape == (rows * blocks,)
    assert (found.zero_points is None) == symmetric
    restored = restore(found, bits=bits, columns=columns)
    # The error of a block is at most that of the first scale tried: half a step each, one whole step at the far end.
    widest = np.abs(np.pad(weight, ((0, 0), (0, blocks * 16 - columns))).reshape(rows, blocks, 16)).max(-1)
    bound = 16**0.5 * 2 * widest / (2 ** (bits - 1)) + 1e-35
    lost = np.pad(restored - weight, ((0, 0), (0, blocks * 16 - columns))).reshape(rows, blocks, 16)
    assert (np.linalg.norm(lost, axis=-1) <= bound).all()


@pytest.mark.parametrize("method", METHODS)
def test_zeros_stay_exactly_zero(method: str) -> None:
    quantize, bits = quantizers.find(method).quantize, quantizers.bits_of(method)

    for symmetric in (True, False):
        blocks = quantize(np.zeros((3, 40), np.float32), symmetric=symmetric)
        assert not restore(blocks, bits=bits, columns=40).any()


def test_methods_are_the_files_of_the_shelf() -> None:
    assert quantizers.names() == (
        "awq", "dynamic", "fp8", "gptq", "hqq", "int4", "int8", "mxfp4", "mxfp6_emulated", "mxint8",
    )  # fmt: skip


def test_an_unknown_method_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SpecError) as refused:
        quantizers.find("int9")

    assert refused.value.kind == "spec.choice"
    assert "int" in (refused.value.hint or "")
