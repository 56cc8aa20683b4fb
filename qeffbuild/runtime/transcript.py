"""Events -> what a terminal shows: one answer flows as it comes, several come line by line, each line tagged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qeffbuild.runtime.request import Event

# A model may say anything, escape sequences too: the terminal gets pictures of control characters, not the characters.
_SHOWN = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_SHOWN |= {code: 0xFFFD for code in range(0x80, 0xA0)}


def transcript(events: Iterable[Event], prompts: int) -> Iterator[str]:
    """Pieces of text to be written as they are. With several prompts, "[2] " stands before each line of the second."""
    return _one(events) if prompts == 1 else _tagged(events)


def _one(events: Iterable[Event]) -> Iterator[str]:
    last = "\n"
    for event in events:
        if event.text:
            last = event.text.translate(_SHOWN)
            yield last
    if not last.endswith("\n"):
        yield "\n"


def _tagged(events: Iterable[Event]) -> Iterator[str]:
    begun: dict[int, str] = {}  # the line that each answer is in the middle of
    for event in events:
        text = begun.pop(event.request, "") + event.text.translate(_SHOWN)
        *whole, rest = text.split("\n")
        if event.finish is not None:
            whole, rest = [*whole, *([rest] if rest else [])], ""
        begun[event.request] = rest
        for line in whole:
            yield f"[{event.request + 1}] {line}\n"
