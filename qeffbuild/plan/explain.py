"""Two pre-images -> why a step runs, in the user's words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from qeffbuild.plan.keys import Preimage
from qeffbuild.plan.types import Step

NEVER_BUILT = "never built"


LeafFiles = Mapping[str, Mapping[str, str]]  # leaf -> file -> digest


def explain(
    step: Step,
    old: Preimage | None,
    new: Preimage,
    old_files: LeafFiles = MappingProxyType({}),
    new_files: LeafFiles = MappingProxyType({}),
) -> tuple[str, ...]:
    """One line for each difference; `old` is the pre-image of the nearest earlier result, None if there is none.

    A leaf that changed is told by its files where those of both times are known.
    """
    if old is None:
        return (NEVER_BUILT,)
    return (
        *_fields("keys schema", old["schema"], new["schema"]),
        *_fields("action", old["action"], new["action"]),
        *_fields(f"action {step.action} version", old["version"], new["version"]),
        *_params(step, old["params"], new["params"]),
        *_changed(old["inputs"], new["inputs"], lambda role: f"inputs.{role} changed"),
        *_narrowed(old["narrow"], new["narrow"]),
        *_leaves(old["leaves"], new["leaves"], old_files, new_files),
        *_changed(old["code"], new["code"], lambda name: f"code {name} changed"),
        *_said("tool", old["tools"], new["tools"]),
        *_said("environment", old["env"], new["env"]),
    )


def distance(old: Preimage, new: Preimage) -> int:
    """How many parts differ."""
    count = 0
    for part in (*old.keys(), *(new.keys() - old.keys())):
        a, b = old.get(part), new.get(part)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            count += sum(not _same(a.get(name, _NOTHING), b.get(name, _NOTHING)) for name in a.keys() | b.keys())
        else:
            count += not _same(a, b)
    return count


_NOTHING: Any = object()


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1, 1.0 and true are three values, a tuple and a list are one."""
    if a is _NOTHING or b is _NOTHING:
        return a is b
    return _show(a) == _show(b)


def _show(value: Any) -> str:
    if value is _NOTHING:
        return "unset"
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, Mapping):
        return json.dumps({name: value[name] for name in sorted(value)}, default=dict, ensure_ascii=False)
    return json.dumps(value, default=dict, ensure_ascii=False)


def _fields(word: str, old: Any, new: Any) -> tuple[str, ...]:
    return () if _same(old, new) else (f"{word} {_show(old)} -> {_show(new)}",)


def _params(step: Step, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """A nested parameter is followed to the values that differ: `backend.options.mos 1 -> 2`.

    One that has no word of its own holds keys of the user; it says what the others have not said.
    """
    lines: list[str] = []
    for name in sorted(old.keys() | new.keys(), key=lambda name: (not step.reads.get(name, name), name)):
        if word := step.reads.get(name, name):
            lines += _values(word, old.get(name, _NOTHING), new.get(name, _NOTHING))
            continue
        said = {line.partition(" ")[0] for line in lines}
        more = _values(word, old.get(name, {}), new.get(name, {}))
        lines += [line for line in more if line.partition(" ")[0] not in said]
    return tuple(lines)


def _values(word: str, old: Any, new: Any) -> list[str]:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return list(_fields(word, old, new))
    lines: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        lines += _values(f"{word}.{name}" if word else name, old.get(name, _NOTHING), new.get(name, _NOTHING))
    return lines


def _leaves(
    old: Mapping[str, Any], new: Mapping[str, Any], old_files: LeafFiles, new_files: LeafFiles
) -> tuple[str, ...]:
    lines: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        if _same(old.get(name, _NOTHING), new.get(name, _NOTHING)):
            continue
        before, after = old_files.get(name), new_files.get(name)
        files = _differing(before, after) if before and after else []
        lines += [f"leaf {name}: {file} changed" for file in files] or [f"leaf {name} changed"]
    return tuple(lines)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], line: Callable[[str], str]) -> tuple[str, ...]:
    return tuple(map(line, _differing(old, new)))


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = sorted(old.keys() | new.keys())
    return [name for name in names if not _same(old.get(name, _NOTHING), new.get(name, _NOTHING))]


def _narrowed(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    return _changed(old, new, lambda role: f"files read of inputs.{role} changed")


def _said(word: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    lines: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        lines += _fields(f"{word} {name}", old.get(name, _NOTHING), new.get(name, _NOTHING))
    return tuple(lines)
