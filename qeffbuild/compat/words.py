"""The words of one of QEfficient's command lines -> what they say, typed, by keyword."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qeffbuild.compat.flags import DEVICES, FILE, INT, LENGTHS, OPTIONAL_FILE, PROMPTS, SWITCH, Flag, flags_of, spelled
from qeffbuild.errors import SpecError
from qeffbuild.spec.text import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """`values` by QEfficient's keyword, `others` by the words that no flag of its takes: options of the compiler.

    `overrides` are keys of ours at the end of the line; `stray` says nothing to QEfficient either.
    """

    module: str
    values: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()


def read_words(module: str, words: Sequence[str]) -> Said:
    """Raises SpecError for a value of the wrong kind, a flag that is missing, and a likely slip of the fingers."""
    known = flags_of(module)
    values: dict[str, Any] = {}
    others: dict[str, Any] = {}
    overrides: list[str] = []
    stray: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        flag = known.get(spelled(name)) if name.startswith("-") else None
        if flag is not None:
            values[flag.name] = _value(flag, name, text if equals else None, rest)
        elif name.startswith("--"):
            _refuse_slip(name, known)
            others[spelled(name)] = text if equals else _next(rest)
        elif equals and not name.startswith("-"):
            overrides.append(word)
        else:
            stray.append(word)
    _require(module, values)
    if module == "infer":
        values = {flag.name: flag.default for flag in known.values() if flag.default is not None} | values
    return Said(module=module, values=values, others=others, overrides=tuple(overrides), stray=tuple(stray))


def _next(rest: list[str]) -> str | bool:
    """The value of a word that we do not know: the next one, unless that is a flag or a key of ours."""
    if not rest or rest[0].startswith("-"):
        return True
    return rest.pop(0)


def _value(flag: Flag, typed: str, text: str | None, rest: list[str]) -> Any:
    if flag.takes == SWITCH:
        if text is not None:
            raise SpecError("flag.value", f"{typed} takes no value, found {text}", hint=f"write {typed} alone")
        return True
    if flag.takes == OPTIONAL_FILE:
        return text if text is not None else _next(rest)
    if text is None:
        if not rest or rest[0].startswith("--"):
            raise SpecError("flag.value", f"{typed} needs a value: {flag.takes}", hint=flag.does)
        text = rest.pop(0)
    return typed_value(flag, typed, text)


def typed_value(flag: Flag, typed: str, text: str) -> Any:
    """`text` as what the flag takes."""
    if flag.takes == INT:
        return _number(typed, text)
    if flag.takes in (DEVICES, LENGTHS):
        items = text.strip().removeprefix("[").removesuffix("]").split(",")
        return [_number(typed, item, f"{typed} {flag.takes}") for item in items if item.strip()]
    if flag.takes == PROMPTS:
        return text.split("|")
    if flag.takes == FILE and not text:
        raise SpecError("flag.value", f"{typed}: its name is empty", hint=flag.does)
    return text


def _number(typed: str, text: str, example: str = "") -> int:
    try:
        return int(text)
    except ValueError:
        hint = f"such as {example}" if example else "a whole number"
        raise SpecError("spec.type", f"{typed}: {text[:60]!r} is not a number", hint=hint) from None


def _refuse_slip(typed: str, known: Mapping[str, Flag]) -> None:
    """A word that is almost a flag is one that was misspelt; as an option of the compiler it would pass unread."""
    spellings = {flag.name: flag.spellings[0] for flag in known.values()} | {name: name for name in known}
    if near := nearest(spelled(typed), spellings):
        raise SpecError("flag.unknown", f"{typed}: no such flag", hint=f"did you mean --{spellings[near]}?")


def _require(module: str, values: Mapping[str, Any]) -> None:
    for flag in flags_of(module).values():
        if module in flag.required and flag.name not in values:
            if flag.name == "model_name" and "local_model_dir" in values:
                continue
            raise SpecError("spec.missing", f"--{flag.spellings[0]} is missing", hint=f"{flag.does}: {flag.takes}")
