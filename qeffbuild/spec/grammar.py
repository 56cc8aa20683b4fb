"""Override words -> Assignments, by Hydra's grammar, or the column at which a word cannot be read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn

from antlr4.error.Errors import LexerNoViableAltException, RecognitionException
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from qeffbuild.errors import PathError, SpecError
from qeffbuild.spec.documents import FORBIDDEN
from qeffbuild.spec.text import as_hint, shown, unwelcome

MAX_WORD = 1 << 16
MAX_SIGNS = 512  # brackets, commas and colons outside quotes: each costs Hydra's parser milliseconds
COMMAND_LINE = "command line"

Mode = Literal["set", "add", "force", "delete"]
_MODES: tuple[tuple[str, Mode], ...] = (("++", "force"), ("+", "add"), ("~", "delete"))
_OUTPUT = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir")
_SWEEPING = re.compile(r"hydra[./](sweeper|launcher)([./].+)?")
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_QUOTES = "'\""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One word: what it does to `key` (`set`, `add`, `force`, `delete`); `said` is the word as Hydra parsed it."""

    word: str
    mode: Mode
    key: str
    value: Any
    said: Override


def assignments(words: Sequence[str]) -> tuple[Assignment, ...]:
    """Each word of our configuration; words for Hydra's own sweepers and launchers are left out."""
    return tuple(_assignment(word) for word in words if not _is_for_hydra(word))


@lru_cache(maxsize=4096)
def _assignment(word: str) -> Assignment:
    try:
        said = _parser().parse_rule(word, "override")
        value = None if said.is_sweep_override() else said.value()
    except HydraException as error:
        _refuse_syntax(word, error)
    except (ValueError, RecursionError, TypeError) as error:
        hint = "write a shorter or a flatter value"
        raise SpecError("override.syntax", f"{shown(word)} cannot be read", where=COMMAND_LINE, hint=hint) from error
    if said.is_sweep_override():
        hint = f"add -m to build each of them; one text with commas is quoted: {said.get_key_element()}='\"a, b\"'"
        raise SpecError("override.syntax", f"{shown(word)} gives several values", where=COMMAND_LINE, hint=hint)
    if said.package is not None or not said.key_or_group:
        what = f"{shown(word)} does not name a key or a group"
        raise SpecError("override.syntax", what, where=COMMAND_LINE, hint="write KEY=VALUE or GROUP=CHOICE")
    _refuse_code(said.key_or_group, value)
    if twice := _said_twice(word):
        what = f"{shown(word)} says {shown(twice)} twice"
        raise SpecError("spec.duplicate", what, where=COMMAND_LINE, hint="the last one would win; say it once")
    return Assignment(word, _mode(word), said.key_or_group, value, said)


@lru_cache(maxsize=1)
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _mode(word: str) -> Mode:
    return next((mode for sign, mode in _MODES if word.startswith(sign)), "set")


def _is_for_hydra(word: str) -> bool:
    """Whether Hydra's sweeper or launcher reads this word; raise when nobody may."""
    if len(word) > MAX_WORD:
        hint = "many or long prompts go into a file: prompts_file=FILE"
        raise SpecError(
            "spec.size", f"{shown(word)} is longer than {MAX_WORD:,} characters", where=COMMAND_LINE, hint=hint
        )
    if sum(sign in "[]{}(),:" for _, sign in _unquoted(word)) > MAX_SIGNS:
        what = f"{shown(word)} has more than {MAX_SIGNS} brackets, commas and colons"
        hint = "long lists go into a file of your own conf folder"
        raise SpecError("spec.size", what, where=COMMAND_LINE, hint=hint)
    name, _, value = word.partition("=")
    if found := unwelcome(name) or unwelcome(value, prose=True):
        what = f"{shown(name)} holds {found[1]}"
        raise SpecError("spec.text", what, where=COMMAND_LINE, hint="remove it")
    key = name.lstrip("+~")
    if key != "hydra" and not key.startswith(("hydra.", "hydra/")):
        return False
    if key == "hydra.searchpath":
        hint = "put your files in ./conf or ~/.config/qeffbuild/conf: they come before the packaged ones"
        raise PathError("override.path", f"{key}: the search path is the program's own", where=COMMAND_LINE, hint=hint)
    if key in _OUTPUT:
        what = f"{key}: {shown(value)}: Hydra's folders are the program's own"
        raise PathError("path.outside", what, where=COMMAND_LINE, hint="out=DIR says where results go")
    if not _SWEEPING.fullmatch(key):
        hint = "of Hydra's own keys, hydra.sweeper and hydra.launcher can be set"
        raise SpecError("spec.forbidden", f"{key}: not set from here", where=COMMAND_LINE, hint=hint)
    _refuse_code(key, value)
    return True


def _refuse_code(key: str, value: Any) -> None:
    names = {*key.replace("/", ".").split("."), *_names(value)}
    if called := sorted(names & FORBIDDEN):
        hint = "choices are looked up by name; configuration never calls code"
        raise SpecError("spec.forbidden", f"{called[0]}: not allowed in configuration", where=COMMAND_LINE, hint=hint)


def _names(value: Any) -> set[str]:
    """Every key inside a value."""
    if isinstance(value, dict):
        return {str(key) for key in value}.union(*map(_names, value.values()))
    return set().union(*map(_names, value)) if isinstance(value, list) else set()


def _refuse_syntax(word: str, error: HydraException) -> NoReturn:
    column = _column(word, error)
    if (found := unwelcome(word)) and found[0] + 1 == column:
        what = f"{shown(word)} holds {found[1]}"
        raise SpecError("spec.text", what, where=COMMAND_LINE, hint="remove it") from error
    what = f"{shown(word)} cannot be read at column {column}: {_reason(word, column)}"
    hint = f"quote text with special characters: '{word.partition('=')[0]}=\"...\"'"
    hint = as_hint(hint, "quote text with special characters")
    raise SpecError("override.syntax", what, where=COMMAND_LINE, hint=hint) from error


def _column(word: str, error: HydraException) -> int:
    cause = error.__cause__
    if isinstance(cause, LexerNoViableAltException):
        return cause.startIndex + 1
    if isinstance(cause, RecognitionException) and cause.offendingToken is not None:
        return min(cause.offendingToken.column, len(word)) + 1
    if quoted := re.search(r"(?:input|at) '(.+?)'", str(error)):
        found = word.rfind(quoted[1])
        return found + 1 if found >= 0 else len(word) + 1
    return len(word) + 1


def _reason(word: str, column: int) -> str:
    if opened := _left_open(word):
        place, sign = opened
        return f"the {sign} of column {place + 1} is not closed"
    if column > len(word):
        return "a value is missing at the end"
    return f"{shown(word[column - 1])} is not expected here"


def _left_open(word: str) -> tuple[int, str] | None:
    """The innermost bracket or quote that nothing closes."""
    opened: list[tuple[int, str]] = []
    for place, sign in _unquoted(word):
        if sign in _BRACKETS or sign in _QUOTES:
            opened.append((place, sign))
        elif opened and sign == _BRACKETS.get(opened[-1][1]):
            opened.pop()
    return opened[-1] if opened else None


def _said_twice(word: str) -> str | None:
    """The first key that one mapping of the word has twice: to Hydra's parser, it is one."""
    levels: list[tuple[str, set[str]]] = []
    start = 0  # of what may be a key
    for place, sign in _unquoted(word) if "{" in word else ():
        if sign in _BRACKETS:
            levels.append((sign, set()))
            start = place + 1
        elif levels and sign == _BRACKETS[levels[-1][0]]:
            levels.pop()
        elif sign == ",":
            start = place + 1
        elif sign == ":" and levels and levels[-1][0] == "{" and start:
            key = word[start:place].strip(f" {_QUOTES}")
            if key in levels[-1][1]:
                return key
            levels[-1][1].add(key)
            start = 0
    return None


def _unquoted(word: str) -> Iterator[tuple[int, str]]:
    """The signs of `word` outside quotes; a quote only if nothing closes it."""
    place = 0
    while place < len(word):
        if word[place] in _QUOTES and (closed := _quoted(word[place]).match(word, place)):
            place = closed.end()
            continue
        yield place, word[place]
        place += 1


@lru_cache(maxsize=2)
def _quoted(quote: str) -> re.Pattern[str]:
    return re.compile(rf"{quote}(?:[^{quote}\\]|\\.)*{quote}", re.DOTALL)
