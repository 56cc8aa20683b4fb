"""Specs -> what a build of them would do, and why. Nothing runs and nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qeffbuild.api.specs import admit, open_store, steps_of
from qeffbuild.plan import Goal, Plan
from qeffbuild.plan.keys import deep_keys
from qeffbuild.report.forecast import Forecast, forecast
from qeffbuild.spec.types import BuildSpec
from qeffbuild.store import Entry
from qeffbuild.world import LocalWorld, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a build would do."""

    goal: Goal
    plan: Plan
    steps: tuple[Forecast, ...]

    def as_json(self) -> dict[str, Any]:
        return {"schema": 1, "goal": self.goal, "steps": [step.as_json() for step in self.steps]}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpToDate:
    """All that an answer rests on when there was nothing to do: while this is as it was, so is the answer."""

    specs: tuple[BuildSpec, ...]
    world: LocalWorld  # what the keys depended on
    entries: tuple[Entry, ...]  # what was found
    at_ns: int  # when it was looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """The plans of several specs; `up_to_date` where none of them has anything to do."""

    plans: tuple[Planned, ...]
    up_to_date: UpToDate | None


def plan(spec: BuildSpec, goal: Goal = "package", *, frozen: bool = False) -> Planned:
    """What `build` would do."""
    return plan_together([spec], goal, frozen=frozen).plans[0]


def plan_together(specs: Sequence[BuildSpec], goal: Goal = "package", *, frozen: bool = False) -> Outlook:
    """The same for several specs; what they share is looked at once."""
    specs = [admit(spec, frozen=frozen) for spec in specs]
    store = open_store(specs[0])
    at_ns = time.time_ns()
    world = LocalWorld(store, [spec.model for spec in specs])
    snapshot = Snapshot(world)
    planned = []
    for steps in (steps_of(spec, goal) for spec in specs):
        found = forecast(steps, deep_keys(steps, snapshot), store)
        planned.append(Planned(goal=goal, plan=steps, steps=found))
    store.close()
    records = {step.record.key: step.record for one in planned for step in one.steps if step.record is not None}
    entries = tuple(Entry(store.entry_path(key), record) for key, record in records.items())
    is_done = all(step.status == "hit" and step.record is not None for one in planned for step in one.steps)
    seen = UpToDate(specs=tuple(specs), world=world, entries=entries, at_ns=at_ns)
    return Outlook(plans=tuple(planned), up_to_date=seen if is_done else None)
