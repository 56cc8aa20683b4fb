"""CPU time of a build with nothing to do, --version, a misspelt verb and TAB, against that of an empty Python.

    python benchmarks/front.py [--rounds 15] [--json]

The commands are interleaved, so that all meet the same machine; each figure is a median. The build is that of
`qeffbuild build`; it is built first if it is not in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM = "import sys; from qeffbuild.cli import main; sys.exit(main())"  # what the installed script does
COMMANDS: dict[str, list[str]] = {
    "python -c pass": ["-c", "pass"],
    "qeffbuild build, nothing to do": ["-c", PROGRAM, "build"],
    "qeffbuild build --json, nothing to do": ["-c", PROGRAM, "build", "--json"],
    "qeffbuild plan, nothing to do": ["-c", PROGRAM, "plan"],
    "qeffbuild --version": ["-c", PROGRAM, "--version"],
    "a misspelt verb": ["-c", PROGRAM, "biuld"],
    "TAB": ["-c", PROGRAM, "--complete", "build", "model="],
}
# (most milliseconds, most times an empty Python); one of the two is enough on a machine of another speed
GATES = {
    "qeffbuild build, nothing to do": (60.0, 5.0),
    "qeffbuild build --json, nothing to do": (60.0, 5.0),
    "qeffbuild plan, nothing to do": (60.0, 5.0),
    "TAB": (50.0, 5.0),
}


def cpu_ms(arguments: list[str]) -> float:
    """User and system time of one run of Python with these arguments."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # byte code is kept, as for any installed program
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    for arguments in COMMANDS.values():  # what is not kept yet is kept now
        for _ in range(3):
            cpu_ms(arguments)
    rounds = [{name: cpu_ms(arguments) for name, arguments in COMMANDS.items()} for _ in range(asked.rounds)]
    medians = {name: statistics.median(measured[name] for measured in rounds) for name in COMMANDS}
    empty = medians["python -c pass"]
    figures = [
        {
            "command": name,
            "cpu_ms": round(median, 1),
            "times_empty_python": round(median / empty, 2),
            "gate": GATES.get(name),
            "passed": name not in GATES or median <= GATES[name][0] or median / empty <= GATES[name][1],
        }
        for name, median in medians.items()
    ]
    if asked.json:
        print(json.dumps({"schema": 1, "rounds": asked.rounds, "figures": figures}, indent=1))
    else:
        for figure in figures:
            mark = "" if figure["passed"] else "  OVER ITS GATE"
            print(f"{figure['command']:<40} {figure['cpu_ms']:>7.1f} ms {figure['times_empty_python']:>6.2f} x{mark}")
    return 0 if all(figure["passed"] for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
