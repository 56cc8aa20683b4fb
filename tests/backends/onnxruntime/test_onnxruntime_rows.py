"""How a run of several rows is cut into runs that fused attention can take."""

from __future__ import annotations

import numpy as np
import pytest

from qeffbuild.backends.onnxruntime.rows import Part, is_whole, parts


@pytest.mark.parametrize(
    ("positions", "whole"),
    [
        ([[4]], True),
        ([[4], [0]], True),
        ([[0, 1, 2]], True),
        ([[0, 1, -1]], False),
        ([[4], [-1]], False),
        ([[0, 1], [0, 1]], False),
    ],
)
def test_a_run_is_taken_as_it_is_without_padding_and_without_several_tokens_of_several_rows(
    positions: list[list[int]], whole: bool
) -> None:
    assert is_whole(np.array(positions)) == whole


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([[0, 1, -1], [-1, -1, -1], [5, 6, 7]], [Part(0, 1, 2), Part(2, 3, 3)]),
        ([[-1], [3], [-1], [9], [-1]], [Part(1, 4, 1, idle=(2,))]),
        ([[-1], [-1]], []),
    ],
    ids=["prefill row by row", "decoding from the first row to the last that has a token", "nobody"],
)
def test_idle_rows_and_padding_cost_nothing(positions: list[list[int]], expected: list[Part]) -> None:
    assert parts(np.array(positions)) == expected
