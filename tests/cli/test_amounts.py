"""Sizes and ages as people write them."""

from __future__ import annotations

import pytest

from qeffbuild.cli.amounts import age_of, size_of
from qeffbuild.errors import SpecError


@pytest.mark.parametrize(("word", "size"), [("10G", 10**10), ("1.5M", 1_500_000), ("500", 500), ("2kB", 2000)])
def test_a_size_is_a_number_with_a_unit(word: str, size: int) -> None:
    assert size_of(word) == size


@pytest.mark.parametrize(("word", "age"), [("30d", 2_592_000), ("12h", 43_200), ("0.5m", 30)])
def test_an_age_is_a_number_with_a_unit(word: str, age: float) -> None:
    assert age_of(word) == age


@pytest.mark.parametrize("word", ["", "G", "-1G", "10 G", "1e9", "١G"])
def test_other_words_are_no_amounts(word: str) -> None:
    for read in (size_of, age_of):
        with pytest.raises(SpecError):
            read(word)
