"""A sample of the changes; `make faults` makes them all."""

from __future__ import annotations

import pytest
from completeness import INPUTS, OTHERS, ran_after

SAMPLE = 6  # every sixth change


@pytest.mark.parametrize("name", list(INPUTS)[::SAMPLE])
def test_a_change_of_an_input_makes_a_step_run(lab, name):
    assert ran_after(lab, INPUTS[name]) > 0


@pytest.mark.parametrize("name", list(OTHERS)[::SAMPLE])
def test_any_other_change_makes_none_run(lab, name):
    assert ran_after(lab, OTHERS[name]) == 0


def test_the_lists_are_as_long_as_promised():
    assert (len(INPUTS) >= 40, len(OTHERS) >= 20) == (True, True)
