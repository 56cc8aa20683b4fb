"""What became of one spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qeffbuild.errors import QeffBuildError, StoreError
from qeffbuild.executor.outcome import Outcome
from qeffbuild.plan import Plan
from qeffbuild.spec.types import BuildSpec
from qeffbuild.store import Entry, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build did. `path` is the folder of its goal, copied to spec.out if that was asked for.

    For as long as this value lives, no collector takes from the store what it speaks of.
    """

    spec: BuildSpec
    plan: Plan
    outcomes: tuple[Outcome, ...]
    path: Path | None
    store: Store = field(repr=False, compare=False)
    error: QeffBuildError | None = None

    @property
    def package(self) -> Path:
        """The folder of the goal; raises what kept it from being built."""
        if self.error is not None:
            raise self.error
        assert self.path is not None, "a build without an error has its goal"
        return self.path

    @property
    def goal(self) -> Entry:
        """The store's own copy of the goal."""
        if self.error is not None:
            raise self.error
        entry = next(outcome.entry for outcome in self.outcomes if outcome.step.name == self.plan.goals[0])
        assert entry is not None, "a build without an error has its goal"
        return entry

    def as_json(self) -> dict[str, Any]:
        path = str(self.path) if self.path else None
        return {"schema": 1, "package": path, "steps": [outcome.as_json() for outcome in self.outcomes]}

    def folder_of(self, step: str) -> Path:
        """The finished folder of a step that this build looked at."""
        found = next(outcome for outcome in self.outcomes if outcome.step.name == step)
        if found.out is not None:
            return found.out
        entry = self.store.find(found.key.digest)
        if entry is None:
            raise StoreError("cache.absent", f"{step}: its result is no longer in the cache", hint="build again")
        return entry.out
