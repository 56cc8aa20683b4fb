"""What the executor adds to a step: in this process, and in a worker that is running already.

Chains of steps whose action only writes one small file; the figures are per step, from the difference of a long and a
short chain, so that the start of the worker and the imports do not count. CPU time of this process and its children,
wall time beside it. The store is in memory, where the gates hold, then on the disk of TMPDIR: there a step waits for
seven fsyncs, and what the kernel does meanwhile is counted, too. Exits with 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qeffbuild.executor import execute
from qeffbuild.plan.keys import deep_keys
from qeffbuild.plan.types import Leaf, Plan, Step
from qeffbuild.store import Store

ACTION = "import json\n\ndef run(work):\n    (work.out / 'result').write_text(json.dumps(dict(work.params)))\n"
SHORT, LONG = 5, 25
GATES_MS = {"in process": 5.0, "in a worker": 60.0}
MEMORY = "/dev/shm"


class FixedWorld:
    def leaf(self, leaf: Leaf) -> str:
        return "0"

    def code(self, module: str) -> str:
        return "0"

    def tool(self, distribution: str) -> str:
        return "0"

    def env(self, name: str) -> str | None:
        return None


def chain(length: int) -> Plan:
    steps = [
        Step(
            name=f"step[{place}]",
            action="executor_benchmark_action",
            params={"place": place},
            inputs={"before": f"step[{place - 1}]"} if place else {},
        )
        for place in range(length)
    ]
    return Plan(tuple(steps), (steps[-1].name,))


def spent(length: int, place: str | None, *, in_process: bool) -> tuple[float, float]:
    """CPU and wall milliseconds of one build of a chain in a fresh store below `place`."""
    plan, world = chain(length), FixedWorld()
    keys = deep_keys(plan, world)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        store = Store(Path(folder) / "cache")
        cpu, wall = _cpu(), time.perf_counter()
        actions = {"executor_benchmark_action"} if in_process else set()
        outcomes = execute(plan, keys, store, world=world, in_process=actions)
        cpu, wall = _cpu() - cpu, time.perf_counter() - wall
        store.close()
        assert all(outcome.result == "built" for outcome in outcomes), outcomes
    return cpu * 1000, wall * 1000


def measure(rounds: int, place: str | None) -> dict[str, dict[str, float]]:
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in GATES_MS}
    for turn in range(rounds + 1):
        for name in GATES_MS:
            in_process = name == "in process"
            short, long = (spent(length, place, in_process=in_process) for length in (SHORT, LONG))
            if turn:
                per_step = [(b - a) / (LONG - SHORT) for a, b in zip(short, long, strict=True)]
                figures[name].append((per_step[0], per_step[1]))
    return {
        name: {"cpu_ms": _median(pair[0] for pair in pairs), "wall_ms": _median(pair[1] for pair in pairs)}
        for name, pairs in figures.items()
    }


def _said(figure: dict[str, float]) -> str:
    return f"{figure['cpu_ms']:7.2f} ms CPU a step   {figure['wall_ms']:7.2f} wall"


def _median(values) -> float:
    return round(statistics.median(values), 2)


def _cpu() -> float:
    """In microseconds, where os.times counts ticks of ten milliseconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "executor_benchmark_action.py").write_text(ACTION)
        sys.path.insert(0, folder)
        figures = measure(words.rounds, MEMORY if os.access(MEMORY, os.W_OK) else None)
        on_disk = measure(words.rounds, None)
    for name, figure in figures.items():
        print(f"{name:12} {_said(figure)}   gate {GATES_MS[name]:.0f}")
    for name, figure in on_disk.items():
        print(f"{name:12} {_said(figure)}   on disk")
    passed = all(figure["cpu_ms"] <= GATES_MS[name] for name, figure in figures.items())
    if words.json:
        words.json.write_text(
            json.dumps({"schema": 1, "per_step": figures, "per_step_on_disk": on_disk, "passed": passed}) + "\n"
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
