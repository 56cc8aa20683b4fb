"""A plan is data: steps in an order in which they can run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

Goal = Literal["export", "render", "compile", "package"]
GOALS: tuple[Goal, ...] = ("export", "render", "compile", "package")


class Leaf(NamedTuple):
    """A file or folder outside the store that a step reads. Its content is part of the key, its path is not."""

    name: str
    path: str


def params_of(value: Any) -> dict[str, Any]:
    """A dataclass as parameters of a step: JSON values, equal to what a record of them holds."""
    return {name: list(item) if isinstance(item, tuple) else item for name, item in asdict(value).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One action, what it is told, and what it reads."""

    name: str
    action: str  # the module that carries it out; it has run(work)
    version: int = 1  # of the action's meaning; raise it to rebuild everywhere
    params: Mapping[str, Any] = field(default_factory=dict)  # JSON values: exactly what of the spec this step reads
    reads: Mapping[str, str] = field(default_factory=dict)  # param -> the user's word for it, for explanations
    inputs: Mapping[str, str] = field(default_factory=dict)  # role -> name of the step whose output it reads
    narrow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # role -> the only files read of that input
    after: tuple[str, ...] = ()  # steps that must have succeeded first but are not read (make's order-only)
    leaves: tuple[Leaf, ...] = ()
    code: tuple[str, ...] = ()  # modules and packages whose source is part of the key, besides the action's own
    tools: tuple[str, ...] = ()  # distributions whose version is part of the key
    env: tuple[str, ...] = ()  # environment variables that are part of the key
    isolated: bool = False  # wants a fresh process

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"name": self.name, "action": self.action, "version": self.version}
        said["params"] = dict(self.params)
        said["inputs"] = dict(self.inputs)
        said["narrow"] = {role: list(files) for role, files in self.narrow.items()}
        said["after"] = list(self.after)
        said["leaves"] = [leaf.name for leaf in self.leaves]
        said["code"], said["tools"], said["env"] = list(self.code), list(self.tools), list(self.env)
        return said


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, and the names of those that were asked for."""

    steps: tuple[Step, ...]
    goals: tuple[str, ...]

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def canonical(self) -> str:
        """The same text for the same spec, on every machine: no path, no time, no version."""
        said = {"schema": 1, "goals": list(self.goals), "steps": [step.as_json() for step in self.steps]}
        return json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
