"""Builds three steps again and again and looks whether what it holds stays (python live_builder.py STORE ROUNDS SEED)."""

from __future__ import annotations

import sys
import types
from pathlib import Path

from still_world import Still

from qeffbuild.executor import execute
from qeffbuild.executor.work import Work
from qeffbuild.plan.keys import deep_keys
from qeffbuild.plan.types import Plan, Step
from qeffbuild.store import Store, collect

ACTION = "live_builder_action"


def run(work: Work) -> None:
    before = [(folder / "text").read_text() for folder in work.inputs.values()]
    (work.out / "text").write_text("".join([*before, work.name, str(work.params["variant"]), "\n"]))


def plan_of(variant: int) -> Plan:
    names = ("fetch", "export", "package")
    steps = [
        Step(name=name, action=ACTION, params={"variant": variant}, inputs={"before": before} if before else {})
        for before, name in zip((None, *names), names, strict=False)
    ]
    return Plan(tuple(steps), names)


def build(root: Path, variant: int) -> None:
    store, plan = Store(root), plan_of(variant)
    outcomes = execute(plan, deep_keys(plan, Still()), store, world=Still(), in_process={ACTION})
    text = ""
    for outcome in outcomes:
        assert outcome.out is not None, (outcome.result, outcome.because, outcome.error)
        text += f"{outcome.step.name}{variant}\n"
        assert (outcome.out / "text").read_text() == text
    # Whatever a collector does meanwhile: what this process has, it keeps until it closes its store.
    collect.gc(store, max_size=0)
    assert collect.verify_all(store, [outcome.entry.record.key for outcome in outcomes if outcome.entry]) == []
    store.close()


def main(root: Path, rounds: int, seed: int) -> None:
    sys.modules[ACTION] = types.ModuleType(ACTION)
    sys.modules[ACTION].run = run  # type: ignore[attr-defined]
    for turn in range(rounds):
        build(root, (turn + seed) % 3)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
