"""One YAML file -> its values and the line of each, or why it is refused. The only module that knows YAML.

Files may come from anybody, so nothing is built that the file's size does not justify: no tags, no keys said twice, no
aliases that multiply. Plain scalars are read as YAML 1.2 reads them: `on` and `012` are text, and the typed field that
they are meant for refuses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qeffbuild.errors import SpecError
from qeffbuild.spec.text import shown, unwelcome

MAX_BYTES = 1 << 20
MAX_VALUES = 20_000  # once aliases are followed
MAX_DEPTH = 32
FORBIDDEN = frozenset(
    {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}
)  # what would make Hydra call code

_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf"), float("inf")),
    "-.inf": float("-inf"),
    ".nan": float("nan"),
}
_HEADER = re.compile(r"\s*#\s*@package\s+(\S+)\s*")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's scanner where there is one: ten times faster


@dataclass(frozen=True, slots=True)
class Document:
    """`lines` maps dotted keys (and `defaults[N]`) to their line; `package` is the file's `# @package`, if any."""

    path: Path
    label: str
    values: dict[str, Any]
    lines: dict[str, int]
    package: str | None

    def where(self, key: str) -> str:
        return f"{self.label}:{self.lines[key]}" if key in self.lines else self.label


def read(path: Path, label: str) -> Document:
    """Raise SpecError when the file is not UTF-8 text, not YAML, too large or asks for more than values."""
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise SpecError(
            "spec.size", f"{label}: larger than {MAX_BYTES:,} bytes", hint="configuration holds choices, not data"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"{label}:{raw[: error.start].count(10) + 1}"
        raise SpecError("spec.text", "the file is not UTF-8", where=where, hint="save it as UTF-8") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not (line.isascii() and line.isprintable()) and (found := unwelcome(line.rstrip("\r").replace("\t", " "))):
            where = f"{label}:{number}"
            raise SpecError("spec.text", f"column {found[0] + 1} holds {found[1]}", where=where, hint="remove it")
    values, lines = _Reader(label).read(text)
    return Document(path, label, values, lines, _package(text))


def _package(text: str) -> str | None:
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            return None
        if match := _HEADER.fullmatch(line):
            return match[1]
    return None


@dataclass(slots=True)
class _Reader:
    """Builds the values of one file from YAML's events, counting what it builds."""

    label: str
    lines: dict[str, int] = field(default_factory=dict)
    anchors: dict[str, Any] = field(default_factory=dict)
    built: int = 0

    def read(self, text: str) -> tuple[dict[str, Any], dict[str, int]]:
        events = yaml.parse(text, Loader=_Loader)
        try:
            values = self._documents(events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self.label}:{mark.line + 1}:{mark.column + 1}" if mark else self.label
            what = error.problem or error.context or "not YAML"
            raise SpecError("spec.syntax", what, where=where, hint="look at this line and the one above it") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise SpecError("spec.syntax", "not YAML", where=self.label, hint="see docs/configuration.md") from error
        return values, self.lines

    def _documents(self, events: Iterator[yaml.Event]) -> dict[str, Any]:
        values: Any = {}
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(
                        "spec.syntax", "a second document begins", event, "one file is one choice: remove the `---`"
                    )
            elif isinstance(event, yaml.NodeEvent):
                values = self._value(event, events, "", 0)
        if values is None:
            return {}
        if not isinstance(values, dict):
            hint = "a choice is a list of KEY: VALUE lines"
            raise SpecError(
                "spec.type", f"found {shown(values)} instead of keys and values", where=self.label, hint=hint
            )
        return values

    def _value(self, event: yaml.NodeEvent, events: Iterator[yaml.Event], path: str, depth: int) -> Any:
        self._count(1, event)
        if depth > MAX_DEPTH:
            self._refuse("spec.size", f"nested deeper than {MAX_DEPTH}", event, "configuration holds choices, not data")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._refuse("spec.tag", f"{shown(tag)}: tags are not read here", event, "write the plain value")
        if isinstance(event, yaml.ScalarEvent):
            value: Any = event.value if event.style else _plain(event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(events, path, depth)
        else:
            value = self._mapping(events, path, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = value
        return value

    def _sequence(self, events: Iterator[yaml.Event], path: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            place = f"{path}[{len(items)}]"
            self.lines[place] = event.start_mark.line + 1
            items.append(self._value(event, events, place, depth + 1))
        return items

    def _mapping(self, events: Iterator[yaml.Event], path: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            name = self._name(event)
            place = f"{path}.{name}" if path else name
            if name in values:
                hint = f"it was said before in line {self.lines[place]}: keep one of the two"
                self._refuse("spec.duplicate", f"{place}: the key is said twice", event, hint)
            self.lines[place] = event.start_mark.line + 1
            values[name] = self._value(next(events), events, place, depth + 1)
        return values

    def _name(self, event: yaml.Event) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse("spec.type", "a key is a single word", event, "write KEY: VALUE")
        if event.tag is not None:
            self._refuse("spec.tag", f"{shown(event.tag)}: tags are not read here", event, "write the plain key")
        if event.value in FORBIDDEN:
            hint = "choices are looked up by name; configuration never calls code"
            self._refuse("spec.forbidden", f"{event.value}: not allowed in configuration", event, hint)
        return event.value

    def _alias(self, event: yaml.AliasEvent) -> Any:
        if event.anchor not in self.anchors:
            hint = "an anchor (&name) comes before its aliases (*name), and never holds one of itself"
            self._refuse("spec.cycle", f"*{event.anchor}: no finished anchor of this name", event, hint)
        value = self.anchors[event.anchor]
        self._count(_size(value), event)
        return value

    def _count(self, more: int, event: yaml.Event) -> None:
        self.built += more
        if self.built > MAX_VALUES:
            self._refuse(
                "spec.size", f"more than {MAX_VALUES:,} values", event, "configuration holds choices, not data"
            )

    def _refuse(self, kind: str, what: str, event: yaml.Event, hint: str) -> None:
        raise SpecError(kind, what, where=f"{self.label}:{event.start_mark.line + 1}", hint=hint)


def _size(value: Any) -> int:
    """The number of values in `value`, its aliases followed; it was built under MAX_VALUES."""
    if isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def _plain(text: str) -> Any:
    """A plain scalar by the core schema of YAML 1.2, leading zeros and other bases aside: those stay text."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
