"""How long a build with nothing to do takes: 10 and 1,000 steps, beside `python -c pass`.

This is the long way, through plan, keys, store and executor; front.py measures the command, which remembers its answer.
Prints a table and, with --json FILE, the figures; exits with 1 when a gate is missed. CPU time of the whole process,
user and system; the runs are interleaved, so that a busy machine treats all alike.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
CHAIN = 10  # steps that read one another; a plan of 1,000 steps has 100 such chains and 100 goals
GATES_MS = {"10 steps": 60.0, "1,000 steps": 120.0}
GATE_RATIO = 5.0  # of 10 steps to `python -c pass`


def prepare(root: Path, chains: int) -> None:
    """Publish every step of the synthetic plan, as a finished build would have."""
    from qeffbuild.plan.keys import deep_keys, shallow_key
    from qeffbuild.store import Record, Store

    store = Store(root)
    plan = plan_of(chains)
    keys = deep_keys(plan, FixedWorld())
    for step in plan:
        key = keys[step.name]
        with store.staging() as staging:
            (staging.out / "result.bin").write_bytes(key.digest.encode() * 64)
            record = Record(
                key=key.digest, shallow=shallow_key(key, {}).digest, name=step.name, preimage=key.preimage, files={}
            )
            store.publish(staging, record)
    store.close()


def no_op(root: Path, chains: int) -> None:
    """What a build does when all is up to date."""
    from qeffbuild.executor import execute
    from qeffbuild.plan.keys import deep_keys
    from qeffbuild.store import Store

    store, plan, world = Store(root), plan_of(chains), FixedWorld()
    outcomes = execute(plan, deep_keys(plan, world), store, world=world)
    store.close()
    if any(outcome.result != "hit" for outcome in outcomes):
        sys.exit("the plan was not up to date")


class FixedWorld:
    def leaf(self, leaf: object) -> str:
        return "a" * 64

    def code(self, module: str) -> str:
        return "b" * 64

    def tool(self, distribution: str) -> str:
        return "1.0"

    def env(self, name: str) -> str | None:
        return None


def plan_of(chains: int):
    from qeffbuild.plan.types import Leaf, Plan, Step

    steps = []
    for chain in range(chains):
        for place in range(CHAIN):
            steps.append(
                Step(
                    name=f"step[{chain}.{place}]",
                    action="qeffbuild.actions.export",
                    params={"opset": 20, "dtype": "float16", "chain": chain, "place": place, "args": list(range(12))},
                    inputs={"graph": f"step[{chain}.{place - 1}]"} if place else {},
                    leaves=() if place else (Leaf(name="model", path="/nowhere"),),
                    code=("qeffbuild.export",),
                    tools=("torch", "onnx"),
                )
            )
    return Plan(tuple(steps), tuple(f"step[{chain}.{CHAIN - 1}]" for chain in range(chains)))


def cpu_ms(argv: list[str]) -> float:
    """User and system time of one child."""
    # Byte code is kept, as for any installed program.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    pid = os.posix_spawn(argv[0], argv, environment)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{argv} ended with {status}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def measure(rounds: int) -> dict[str, float]:
    import statistics  # here, because the child that is measured runs this file, too
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        commands = {"python -c pass": [sys.executable, "-c", "pass"]}
        for name, chains in (("10 steps", 1), ("1,000 steps", 100)):
            root = Path(folder) / str(chains)
            prepare(root, chains)
            commands[name] = [sys.executable, str(HERE), "--no-op", str(root), str(chains)]
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(rounds + 1):
            for name, argv in commands.items():
                spent = cpu_ms(argv)
                if turn:  # the first round warms the caches
                    times[name].append(spent)
    return {name: round(statistics.median(spent), 1) for name, spent in times.items()}


def main() -> int:
    import argparse
    import json

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-op", nargs=2, metavar=("ROOT", "CHAINS"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    medians = measure(words.rounds)
    ratio = round(medians["10 steps"] / medians["python -c pass"], 2)
    for name, spent in medians.items():
        gate = GATES_MS.get(name)
        print(f"{name:16} {spent:7.1f} ms CPU" + (f"   gate {gate:.0f}" if gate else ""))
    print(f"{'10 steps / pass':16} {ratio:7.2f}          gate {GATE_RATIO:.0f}")
    passed = ratio <= GATE_RATIO and all(medians[name] <= gate for name, gate in GATES_MS.items())
    if words.json:
        words.json.write_text(json.dumps({"schema": 1, "cpu_ms": medians, "ratio": ratio, "passed": passed}) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))
    if sys.argv[1:2] == ["--no-op"]:
        no_op(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main())
