"""Specs -> packages, built as one plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from qeffbuild import backends
from qeffbuild.api.built import Built
from qeffbuild.api.locking import Lock
from qeffbuild.api.planning import UpToDate
from qeffbuild.api.specs import admit, check_out, open_store, steps_of
from qeffbuild.errors import AbsentError, VerificationError
from qeffbuild.executor.execute import execute
from qeffbuild.executor.outcome import Outcome
from qeffbuild.executor.reporter import Reporter
from qeffbuild.plan import Goal, Plan
from qeffbuild.plan.keys import Key, deep_keys
from qeffbuild.plan.merge import merge
from qeffbuild.spec.types import BuildSpec
from qeffbuild.store import Entry, Store
from qeffbuild.world import LOCATE, LocalWorld, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What became of several specs that were built as one: `outcomes` has each unique step once."""

    builds: tuple[Built, ...]
    outcomes: tuple[Outcome, ...]
    up_to_date: UpToDate | None  # where there was nothing to do


def build(
    spec: BuildSpec,
    goal: Goal = "package",
    *,
    reporter: Reporter | None = None,
    frozen: bool = False,
    allow_outside: bool = False,
) -> Built:
    """Bring the goal into the store; what failed is in the outcomes and in `error`."""
    together = build_together([spec], goal, reporter=reporter, frozen=frozen, allow_outside=allow_outside)
    return together.builds[0]


def build_together(
    specs: Sequence[BuildSpec],
    goal: Goal = "package",
    *,
    reporter: Reporter | None = None,
    frozen: bool = False,
    allow_outside: bool = False,
    plans: Callable[[BuildSpec, Goal], Plan] = steps_of,
    lock: Lock | None = None,
) -> Together:
    """Build several specs as one plan: a step that they share runs once, and a failure hides no other.

    With a `lock` nothing runs unless its inputs are the same, and nothing is handed out unless its outputs are.
    """
    for spec in specs:
        check_out(spec, allow_outside=allow_outside)
    specs = [admit(spec, frozen=frozen, may_ask=True) for spec in specs]
    launch = specs[0].launch
    store = open_store(specs[0], reporter.message if reporter else None)
    at_ns = time.time_ns()
    world = LocalWorld(store, [spec.model for spec in specs])
    snapshot = Snapshot(world)
    steps = [plans(spec, goal) for spec in specs]
    keyed = [(found, deep_keys(found, snapshot)) for found in steps]
    if lock is not None:
        for spec, (found, keys) in zip(specs, keyed, strict=True):
            lock.check_inputs(spec, found, keys)
    _require_tools(specs, goal, keyed, store)
    graph = merge(keyed)
    outcomes = tuple(
        execute(
            graph,
            graph.keys,
            store,
            world=world,
            jobs=launch.jobs,
            timeout_s=launch.timeout_s,
            memory_mb=launch.memory_mb,
            keep_going=launch.keep_going,
            reporter=reporter,
            locate=LOCATE,
        )
    )
    by_key = {outcome.key.digest: outcome for outcome in outcomes}
    failure = next((outcome for outcome in outcomes if outcome.error), None)
    builds = tuple(
        _built(spec, store, found, [by_key[keys[step.name].digest] for step in found], failure, lock)
        for spec, (found, keys) in zip(specs, keyed, strict=True)
    )
    entries = tuple(outcome.entry for outcome in outcomes if outcome.entry is not None)
    seen = UpToDate(specs=tuple(specs), world=world, entries=entries, at_ns=at_ns)
    is_done = all(outcome.result == "hit" for outcome in outcomes)
    return Together(builds=builds, outcomes=outcomes, up_to_date=seen if is_done else None)


def _require_tools(
    specs: Sequence[BuildSpec], goal: Goal, keyed: Sequence[tuple[Plan, Mapping[str, Key]]], store: Store
) -> None:
    """A program that only a last step needs is missed before the first one runs; a sweep builds what it can."""
    if goal not in ("compile", "package"):
        return
    missed: AbsentError | None = None
    for spec, (found, keys) in zip(specs, keyed, strict=True):
        require = getattr(import_module(backends.package_of(spec.backend.name)), "require", None)
        if require is None or all(store.peek(keys[name].digest) is not None for name in found.goals):
            return
        try:
            require(spec)
        except AbsentError as error:
            missed = missed or error
        else:
            return
    if missed is not None:
        raise missed


def _built(
    spec: BuildSpec,
    store: Store,
    found: Plan,
    outcomes: Sequence[Outcome],
    failure: Outcome | None,
    lock: Lock | None,
) -> Built:
    """What of a common build belongs to one spec."""
    failed = next((outcome.error for outcome in outcomes if outcome.error is not None), None)
    goal = next(outcome for outcome in outcomes if outcome.step.name == found.goals[0])
    error = failed or (failure.error if failure and goal.entry is None else None)
    path = goal.entry.out if goal.entry is not None else None
    if lock is not None and goal.entry is not None and error is None:
        lock.check_outputs(goal.entry)
    if goal.entry is not None and error is None and spec.out is not None and "package" in found.goals[0]:
        path = _copied(store, goal.entry, Path(spec.out))
    return Built(spec=spec, plan=found, outcomes=tuple(outcomes), path=path, store=store, error=error)


def _copied(store: Store, entry: Entry, out: Path) -> Path:
    """The entry's files in `out`; a package that was copied there before may be replaced, other files may not."""
    from qeffbuild.store.hand_out import export_tree

    export_tree(store, entry, out, replace=_is_package(out) or _is_part_of(entry, out))
    return out.absolute()


def _is_part_of(entry: Entry, folder: Path) -> bool:
    """Whether all that lies there has names of the entry: an earlier copy that lost a file or was cut short."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return found <= entry.record.files.keys()


def _is_package(folder: Path) -> bool:
    from qeffbuild.package import MANIFEST, Package, members

    try:
        listed = Package.open(folder).manifest["files"]
    except VerificationError:
        return False
    return set(members(folder)) <= {MANIFEST, *listed}
