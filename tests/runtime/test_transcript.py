"""A terminal shows one answer as it flows, several as tagged lines, and no control characters."""

from __future__ import annotations

from qeffbuild.runtime.request import Event
from qeffbuild.runtime.transcript import transcript


def event(request: int, text: str, *, is_last: bool = False) -> Event:
    return Event(request=request, token_id=0, text=text, finish="length" if is_last else None)


def test_one_answer_flows_piece_by_piece_and_ends_its_line():
    events = [event(0, "Once"), event(0, ""), event(0, " upon\na"), event(0, " time", is_last=True)]

    assert list(transcript(events, 1)) == ["Once", " upon\na", " time", "\n"]


def test_several_answers_come_as_whole_lines_that_say_whose_they_are():
    events = [
        event(0, "a"),
        event(1, "x\ny"),
        event(0, "b\n\nc"),
        event(1, "z", is_last=True),
        event(0, "", is_last=True),
    ]

    assert list(transcript(events, 2)) == ["[2] x\n", "[1] ab\n", "[1] \n", "[2] yz\n", "[1] c\n"]


def test_escape_sequences_of_a_model_do_not_reach_the_terminal():
    shown = "".join(transcript([event(0, "\x1b[31mred\x07\x9b2J\ttab\n", is_last=True)], 1))

    assert shown == "␛[31mred␇\ufffd2J\ttab\n"
