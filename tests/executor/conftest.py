from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qeffbuild.executor import Outcome, execute
from qeffbuild.plan.keys import deep_keys
from qeffbuild.plan.merge import merge
from qeffbuild.plan.types import Leaf, Plan, Step
from qeffbuild.store import Store

# Small actions, written where a worker can import them: a step named "a" says {"a": what it was told and what it read}.
ACTIONS = """
import json, os, pathlib, signal, subprocess, sys, time

def locate(path):
    return pathlib.Path(path.removeprefix("hub:"))

def run(work):
    with open(work.params["trace"], "a") as trace:
        trace.write(f"{work.name} {os.getpid()}\\n")
    told = dict(work.params)
    for line in told.get("do", []):
        exec(line, {**globals(), "work": work})
    read = {role: (path / "said").read_text() for role, path in work.inputs.items()}
    read |= {name: path.read_text() for name, path in work.leaves.items()}
    (work.out / "said").write_text(json.dumps([told.get("say", ""), sorted(read.items())]))
    (work.out / "note").write_text(told.get("note", ""))
"""


class TestWorld:
    """Leaves by their bytes; code and tools never change, unless a test says so."""

    __test__ = False

    def __init__(self, store: Store) -> None:
        self.store = store
        self.versions: dict[str, str] = {}

    def leaf(self, leaf: Leaf) -> str:
        return self.store.digest_file(Path(leaf.path))

    def code(self, module: str) -> str:
        return self.versions.get(module, "0")

    def tool(self, distribution: str) -> str:
        return self.versions.get(distribution, "0")

    def env(self, name: str) -> str | None:
        return self.versions.get(name)


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.fractions: list[tuple[str, float, str]] = []

    def started(self, step: Step, because) -> None:
        self.lines.append(f"{step.name} starts: {', '.join(because)}")

    def progress(self, step: Step, fraction: float, what: str) -> None:
        self.fractions.append((step.name, fraction, what))

    def finished(self, outcome: Outcome) -> None:
        self.lines.append(f"{outcome.step.name} {outcome.result}")

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workshop = Workshop(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "actions")
    yield workshop
    workshop.store.close()
    sys.modules.pop("small_action", None)


class Workshop:
    """Makes steps of the small action, builds plans of them, and knows which of them ran."""

    def __init__(self, folder: Path) -> None:
        (folder / "actions").mkdir()
        (folder / "actions" / "small_action.py").write_text(ACTIONS)
        self.folder = folder
        self.trace = folder / "trace"
        self.said: list[str] = []
        self.store = Store(folder / "cache", say=self.said.append)
        self.world = TestWorld(self.store)
        self.heard = Heard()

    def step(self, name: str, *inputs: str, do: tuple[str, ...] = (), say: str = "", **fields) -> Step:
        params = {"trace": str(self.trace), "say": say, "do": list(do), **fields.pop("params", {})}
        return Step(name=name, action="small_action", params=params, inputs={role: role for role in inputs}, **fields)

    def build(self, *steps: Step, goals: tuple[str, ...] = (), **options) -> dict[str, Outcome]:
        plan = Plan(steps, goals or (steps[-1].name,))
        keys = deep_keys(plan, self.world)
        outcomes = execute(plan, keys, self.store, world=self.world, reporter=self.heard, **options)
        return {outcome.step.name: outcome for outcome in outcomes}

    def sweep(self, *plans: Plan, **options) -> list[Outcome]:
        merged = merge([(plan, deep_keys(plan, self.world)) for plan in plans])
        return execute(merged, merged.keys, self.store, world=self.world, reporter=self.heard, **options)

    def ran(self) -> list[str]:
        """Names of the steps that really ran since the last look."""
        return [line.split()[0] for line in self.lines()]

    def lines(self) -> list[str]:
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        self.trace.unlink(missing_ok=True)
        return lines


@pytest.fixture
def results() -> Callable[[dict[str, Outcome]], dict[str, str]]:
    return lambda outcomes: {name: outcome.result for name, outcome in outcomes.items()}
