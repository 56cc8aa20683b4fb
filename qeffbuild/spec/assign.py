"""Assignments -> changed values: what exists is set, what does not is refused with the key that was probably meant."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from qeffbuild.errors import SpecError
from qeffbuild.spec.grammar import COMMAND_LINE, Assignment, Mode
from qeffbuild.spec.text import as_hint, nearest, shown


@dataclass(frozen=True, slots=True)
class Target:
    """Values to change, where each was written, and the keys whose content is free (`adapters`)."""

    values: dict[str, Any]
    origins: dict[str, str]
    free: frozenset[str]

    def apply(self, said: Assignment) -> None:
        parent, name = self._parent(said)
        if said.mode == "delete":
            self._delete(said, parent, name)
        else:
            self._put(said, said.mode, parent, name, said.key, said.value)

    def _put(self, said: Assignment, mode: Mode, parent: dict[str, Any], name: str, key: str, value: Any) -> None:
        inner = parent.get(name)
        if isinstance(value, Mapping) and isinstance(inner, dict):
            for part, item in value.items():
                self._put(said, "force" if mode == "add" else mode, inner, str(part), f"{key}.{part}", item)
            return
        if name not in parent and not self._is_free(key):
            self._refuse_unknown(said, key)
        if mode == "add" and inner is not None:
            hint = as_hint(f"write {said.word.lstrip('+')}", "leave out the +")
            what = f"{shown(said.word)}: {key} exists already, with {shown(inner)}"
            raise SpecError("override.exists", what, where=COMMAND_LINE, hint=hint)
        parent[name] = copy.deepcopy(value)
        self.origins[key] = COMMAND_LINE

    def _parent(self, said: Assignment) -> tuple[dict[str, Any], str]:
        """The mapping that holds the last part of the key, and that part."""
        *above, name = said.key.split(".")
        holder: Any = self.values
        for depth, part in enumerate(above, start=1):
            if part not in holder and self._is_free(".".join(above[:depth])):
                holder[part] = {}
            holder = holder.get(part)
            if not isinstance(holder, dict):
                self._refuse_unknown(said, said.key)
        return holder, name

    def _delete(self, said: Assignment, parent: dict[str, Any], name: str) -> None:
        if name not in parent:
            self._refuse_unknown(said, said.key)
        if said.value is not None and said.value != parent[name]:
            what = f"{shown(said.word)}: {said.key} is {shown(parent[name])}"
            raise SpecError("override.exists", what, where=COMMAND_LINE, hint=f"write ~{said.key}")
        del parent[name]

    def _is_free(self, key: str) -> bool:
        return any(key.startswith(f"{free}.") for free in self.free)

    def _refuse_unknown(self, said: Assignment, key: str) -> NoReturn:
        groups = (name for name, value in self.values.items() if isinstance(value, dict))
        refuse_unknown(said.word, key, (*dotted(self.values), *groups, "recipe"))


def refuse_unknown(word: str, key: str, known: Iterable[str]) -> NoReturn:
    """Raise override.unknown for `word`, with the key among `known` that was probably meant."""
    known = sorted(known)
    close = nearest(key, known)
    listed = sorted({name.partition(".")[0] for name in known})
    name, equals, value = word.partition("=")
    again = f"{close}{equals}{value}" if name.lstrip("+~") == key else close
    hint = as_hint(f"did you mean {again}?", f"did you mean {close}?") if close else f"known: {', '.join(listed)}"
    raise SpecError("override.unknown", f"{shown(word)}: there is no key {shown(key)}", where=COMMAND_LINE, hint=hint)


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted name of every value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
