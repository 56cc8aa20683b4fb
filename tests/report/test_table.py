"""Tables that a reader can take in at a glance, wherever they are printed."""

from __future__ import annotations

import io

import pytest

from qeffbuild.report.table import Column, Look, duration, seconds, size, table

ROWS = [["fetch", "hit", "", ""], ["export", "built", "4.2", "model.dtype float32 -> float16"]]
COLUMNS = ["STEP", "RESULT", Column("SECONDS", True), "BECAUSE"]


def test_columns_line_up_and_numbers_stand_on_the_right() -> None:
    assert table(COLUMNS, ROWS, Look()).splitlines() == [
        "STEP    RESULT  SECONDS  BECAUSE",
        "fetch   hit",
        "export  built       4.2  model.dtype float32 -> float16",
    ]


def test_a_column_in_which_nothing_stands_is_left_out() -> None:
    assert table(COLUMNS, [["fetch", "hit", "", ""]], Look()) == "STEP   RESULT\nfetch  hit"


def test_on_a_terminal_the_last_column_gives_way_to_the_width() -> None:
    lines = table(COLUMNS, ROWS, Look(width=40)).splitlines()

    assert max(map(len, lines)) <= 40
    assert lines[2].endswith("…")


def test_only_a_terminal_that_wants_colour_gets_it() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert Look.of(Terminal(), {"TERM": "xterm"}).colour
    assert not Look.of(Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}).colour
    assert not Look.of(Terminal(), {"TERM": "dumb"}).is_live
    assert Look.of(io.StringIO(), {"TERM": "xterm"}) == Look(width=None, colour=False)
    assert "\x1b[32m" in table(COLUMNS, ROWS, Look(colour=True))
    assert "\x1b" not in table(COLUMNS, ROWS, Look())


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0421, "0.04"), (4.21, "4.2"), (59.96, "60.0"), (723, "12m 03s"), (7260, "2h 01m"), (None, "")],
)
def test_seconds_have_as_many_digits_as_one_reads(value: float | None, said: str) -> None:
    assert seconds(value) == said


def test_a_duration_has_its_unit() -> None:
    assert (duration(4.21), duration(723)) == ("4.2 s", "12m 03s")


@pytest.mark.parametrize(("value", "said"), [(98, "98 B"), (8400, "8.4 kB"), (518e6, "518 MB"), (2.5e12, "2.5 TB")])
def test_sizes_are_in_powers_of_a_thousand(value: float, said: str) -> None:
    assert size(value) == said
