"""Compute context lengths come out as QEfficient makes them, recorded and by its rules."""

from __future__ import annotations

import pytest

from qeffbuild.compat.lengths import automatic, settled


def test_given_lengths_are_raised_completed_and_moved_apart() -> None:
    assert settled([512, 1024], [1024, 2048], 4096, 128) == ([992, 4064], [1024, 2048, 4096])
    assert settled([1024], [1024, 2048], 2048, 128) == ([992, 2016], [1024, 2048])
    assert settled([1024], [2048], 2048, 1) == ([1024, 2048], [1024, 2048])


@pytest.mark.parametrize(
    ("ctx_len", "prefill", "decode"),
    [
        (128, [992], [1024]),
        (4096, [4064], [4096]),
        (16384, [4000, 8000, 16352], [4096, 8192, 16384]),
        (65536, [8000, 16000, 32000, 65504], [8192, 16384, 32768, 65536]),
    ],
)
def test_lengths_are_chosen_where_none_are_given(ctx_len: int, prefill: list[int], decode: list[int]) -> None:
    assert automatic(ctx_len, 128) == (prefill, decode)


def test_one_graph_for_both_phases_has_one_list() -> None:
    prefill, decode = automatic(16384, 1)

    assert prefill == decode == [4096, 8192, 16384]
