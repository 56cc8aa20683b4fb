"""Rounding to the OCP formats: against every number that a format has, and at the edges that the specification names."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from qeffbuild.graph.microscaling import E2M1, E2M3, E3M2, E4M3, INT8, Element, round_blocks, round_elements, round_rows

KNOWN = {
    "e4m3": (E4M3, ml_dtypes.float8_e4m3fn),
    "e3m2": (E3M2, ml_dtypes.float6_e3m2fn),
    "e2m3": (E2M3, ml_dtypes.float6_e2m3fn),
    "e2m1": (E2M1, ml_dtypes.float4_e2m1fn),
}


@pytest.mark.parametrize("name", KNOWN)
def test_every_number_of_a_format_stays_and_halves_go_to_even(name: str) -> None:
    element, dtype = KNOWN[name]
    width = {"e4m3": 256, "e3m2": 64, "e2m3": 64, "e2m1": 16}[name]
    numbers = np.arange(width, dtype=np.uint8).view(dtype).astype(np.float32)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    halves = (numbers[1:] + numbers[:-1]) / 2
    values = np.concatenate([numbers, halves, halves * 1.001, np.linspace(numbers[0], numbers[-1], 999)])

    found = round_elements(values.astype(np.float32), element)

    np.testing.assert_array_equal(found, values.astype(np.float32).astype(dtype).astype(np.float32))
    assert round_elements(np.float32([1e9, -1e9]), element).tolist() == [element.largest, -element.largest]


@pytest.mark.parametrize("element", [E4M3, E3M2, E2M3, E2M1, INT8], ids=["e4m3", "e3m2", "e2m3", "e2m1", "int8"])
def test_a_block_keeps_powers_of_two_and_is_off_by_a_step_at_most(element: Element) -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((5, 70)) * np.exp(rng.standard_normal((5, 1)) * 9)).astype(np.float32)

    found = round_blocks(values, element)

    most = np.abs(np.pad(values, ((0, 0), (0, 26))).reshape(5, 3, 32)).max(-1).repeat(32, 1)[:, :70]
    # Half a step of the largest binade, and what saturates: less than one step there.
    assert (np.abs(found - values) <= most * 2.0**-element.mantissa_bits + 1e-30).all()
    np.testing.assert_array_equal(round_blocks(found, element), found)
    np.testing.assert_array_equal(round_blocks(values * 8, element), found * 8)


def test_the_shared_scale_is_a_power_of_two_by_the_largest_value() -> None:
    block = np.zeros(32, np.float32)
    block[:4] = [5.0, 1.1, 0.6, -7.9]

    found = round_blocks(block, E2M1)  # 7.9: exponent 2, less the format's 2: scale 1

    assert found[:5].tolist() == [4.0, 1.0, 0.5, -6.0, 0.0]  # 5 lies between 4 and 6: to the even one


def test_rows_of_fp8_put_their_largest_value_on_the_formats_largest() -> None:
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)

    found = round_rows(values, E4M3)

    assert np.abs(found).max(1) == pytest.approx(np.abs(values).max(1))
    assert np.linalg.norm(found - values) / np.linalg.norm(values) < 0.03
    assert not round_rows(np.zeros((2, 8), np.float32), E4M3).any()
    assert not round_rows(np.full((2, 8), 1e-44, np.float32), E4M3).any()  # whose scale would be no number
