"""Short forms; `make faults` runs the long ones."""

from __future__ import annotations

import pytest
from lab import has_strace, summary


def bad(trials) -> list[dict[str, str]]:
    return summary(list(trials))["bad"]


def test_a_killed_build_leaves_nothing_wrong_and_loses_no_finished_step(lab):
    assert bad(lab.kill(3)) == []


@pytest.mark.slow
def test_a_build_killed_at_a_system_call_leaves_nothing_wrong(lab):
    if not has_strace():
        pytest.skip("strace is not installed, or may not trace here")
    assert bad(lab.inject("kill", "rename fsync", every=9)) == []


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_next_run_is_right(lab):
    if not has_strace():
        pytest.skip("strace is not installed, or may not trace here")
    assert bad(lab.inject("ENOSPC", "mkdir fsync", every=25, storm=True)) == []


def test_nothing_damaged_is_served(lab):
    assert bad(lab.damage(6)) == []


def test_builds_at_once_run_each_step_once(lab):
    assert bad(lab.concurrent(3, 1)) == []


def test_a_build_killed_among_others_does_not_disturb_them(lab):
    assert bad(lab.concurrent(3, 1, kill_one=True)) == []
