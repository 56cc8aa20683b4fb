"""Two builds -> how they differ, step by step where their keys are known, else by what their packages say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qeffbuild.package import Package
from qeffbuild.plan.explain import explain
from qeffbuild.plan.keys import Preimage
from qeffbuild.plan.types import Step
from qeffbuild.store.record import Damaged, decode


@dataclass(frozen=True, slots=True)
class Side:
    """One build: the pre-image of each step's key by name, the step itself where a spec gave it."""

    steps: Mapping[str, Preimage]
    words: Mapping[str, Step]


def side_of_package(path: Path) -> Side | None:
    """The steps that led to a package which lies in a store; None for one that was copied out of it."""
    entry = path.resolve().parent
    steps: dict[str, Preimage] = {}
    todo = [entry]
    while todo:
        place = todo.pop()
        try:
            record = decode((place / "record.json").read_bytes())
        except (OSError, Damaged):
            if place == entry:
                return None
            continue
        steps[record.name] = record.preimage
        todo += [place.parent.parent / key[:2] / key for key in record.inputs]
    return Side(dict(reversed(steps.items())), {})


def differences(one: Side, other: Side) -> list[dict[str, Any]]:
    """Each step of either side: whether it is the same, and what differs from the one to the other."""
    found = []
    for name in dict.fromkeys([*one.steps, *other.steps]):
        old, new = one.steps.get(name), other.steps.get(name)
        because: Sequence[str]
        if old is None or new is None:
            because = ("only the second has it" if old is None else "only the first has it",)
        else:
            step = other.words.get(name) or one.words.get(name) or Step(name=name, action=new["action"])
            because = explain(step, old, new)
        found.append({"name": name, "same": not because, "because": list(because)})
    return found


def package_differences(one: Package, other: Package) -> list[dict[str, Any]]:
    """The parts of two manifests that differ, as if each were a step."""
    found = []
    parts = [part for part in dict.fromkeys([*one.manifest, *other.manifest]) if part not in ("schema", "digest")]
    for part in parts:
        because = _changes(part, one.manifest.get(part), other.manifest.get(part))
        found.append({"name": part, "same": not because, "because": because})
    return found


def _changes(word: str, old: Any, new: Any) -> list[str]:
    if old == new:
        return []
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [f"{word} {_shown(old)} -> {_shown(new)}"]
    if "sha256" in old and "sha256" in new:
        return [f"{word} changed"]
    return [line for name in sorted({*old, *new}) for line in _changes(f"{word}.{name}", old.get(name), new.get(name))]


def _shown(value: Any) -> str:
    said = str(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
