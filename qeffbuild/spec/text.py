"""Words that a user wrote -> the same words, or why they cannot be taken: characters, names, and what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# Patterns are compiled by their first use: a build with nothing to do never pays for it.
_BIDI = "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # makes a text read differently from what it is
_CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_NUL = "\x00"
_SURROGATE = "[\ud800-\udfff]"
_USER = r"(?<=//)[^/\s@]+@"  # https://NAME:PASSWORD@HOST
_BARE = r"[A-Za-z_/][A-Za-z0-9_/.-]*"
_NOT_TEXT = ("null", "true", "false", "nan", "inf")  # what the grammar reads as something else
_QUOTE_OR_END = r"(\\*)(\"|\Z)"
_CHOICE = r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*"


def unwelcome(text: str, *, prose: bool = False) -> tuple[int, str] | None:
    """The place and the name of the first character that no name may hold; `prose` may hold all but NUL and bytes."""
    patterns = [(_SURROGATE, "a byte that is not UTF-8"), (_NUL if prose else _CONTROL, "a control character")]
    if not prose:
        patterns.append((_BIDI, "a character that changes the direction of text"))
    found = [
        (match.start(), f"{what} (U+{ord(match[0]):04X})")
        for seen, what in patterns
        if (match := re.search(seen, text))
    ]
    return min(found) if found else None


def is_choice(name: str) -> bool:
    """Whether `name` can name a file inside a group: letters, digits, `_.-` and single slashes, and never upwards."""
    return bool(re.fullmatch(_CHOICE, name)) and not any(set(part) == {"."} for part in name.split("/"))


def as_hint(hint: str, otherwise: str) -> str:
    """A hint that repeats a user's words, if they make one readable line without a password."""
    is_fit = hint.isprintable() and len(hint) <= 160 and not re.search(_USER, hint)
    return hint if is_fit else otherwise


def shown(value: object) -> str:
    """A value as an error message shows it: short, on one line, quoted where it is text, without a password."""
    said = repr(value) if isinstance(value, str) else _plain(value)
    said = re.sub(_USER, "...@", said) if "//" in said else said
    said = said.encode("utf-8", "backslashreplace").decode()
    return said if len(said) <= 60 else f"{said[:56]} ..."


def _plain(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        return str(value)
    except ValueError:  # an integer too long for Python to print
        return "an integer of thousands of digits"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant; of dotted words the last part counts too."""
    from difflib import SequenceMatcher  # only a mistake pays for it

    last = word.rpartition(".")[2].lower()

    def likeness(candidate: str) -> float:
        whole = SequenceMatcher(None, word.lower(), candidate.lower()).ratio()
        return max(whole, 0.98 * SequenceMatcher(None, last, candidate.rpartition(".")[2].lower()).ratio())

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.7 else None


def quoted(value: Any) -> str:
    """A value as the override grammar reads it: text in quotes, so that it stays text."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(quoted, value))}]"
    if isinstance(value, int | float) or (re.fullmatch(_BARE, str(value)) and str(value).lower() not in _NOT_TEXT):
        return str(value)
    return f'"{re.sub(_QUOTE_OR_END, _protected, escaped(str(value)))}"'


def _protected(found: re.Match[str]) -> str:
    """Before a quote, and at the end, each backslash is doubled; the quote itself gets one."""
    return found[1] * 2 + (f"\\{found[2]}" if found[2] else "")


def escaped(text: str) -> str:
    """What was typed is what is meant: `${` begins no reference to another key."""
    return text.replace("${", "\\${")
