"""The long forms: `python tests/faults/run.py --long --json FILE`; exits with 1 when a trial did not end well.

Points at the small pipeline, or with --command at any build: `--template DIR` is copied for each trial, `--product`
and `--stored` are the patterns of what it makes and keeps; the lists of inputs are the pipeline's and then left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from completeness import INPUTS, OTHERS, Change, ran_after
from lab import Lab, Target, Trial, command_of, has_strace, summary
from small import small_target

STORM = "mkdir write pwrite64 fsync fdatasync rename"


def parts(lab: Lab, words: argparse.Namespace) -> dict[str, Callable[[], Iterable[Trial]]]:
    """Every part of the run by name, none of them begun."""
    long, every = words.long, 1 if words.long else 20
    found: dict[str, Callable[[], Iterable[Trial]]] = {"kill": lambda: lab.kill(200 if long else 10)}
    if has_strace():
        found["kill at system calls"] = lambda: lab.inject("kill", every=every)
        for error in ("ENOSPC", "EIO", "EDQUOT"):
            found[error] = lambda error=error: lab.inject(error, every=every)
            found[f"{error} storm"] = lambda error=error: lab.inject(error, STORM, every=every, storm=True)
    found["damage"] = lambda: lab.damage(500 if long else 25)
    for processes in (2, 4, 8, 16):
        found[f"{processes} at once"] = lambda processes=processes: lab.concurrent(processes, 20 if long else 1)
        found[f"{processes} at once, one killed"] = lambda processes=processes: lab.concurrent(
            processes, 10 if long else 1, kill_one=True
        )
    if not words.command:
        found["inputs"] = lambda: changes(lab, INPUTS, must_run=True)
        found["other changes"] = lambda: changes(lab, OTHERS, must_run=False)
    chosen = words.only.split(",") if words.only else list(found)
    return {name: found[name] for name in chosen}


def changes(lab: Lab, listed: dict[str, Change], *, must_run: bool) -> Iterable[Trial]:
    for name, change in listed.items():
        count = ran_after(lab, change)
        verdict = "ok" if (count > 0) == must_run else f"{count} steps ran"
        yield Trial(fault=name, verdict=verdict)


def target_of(words: argparse.Namespace, folder: Path) -> Target:
    if not words.command:
        return small_target(folder)
    return Target(
        command=command_of(words.command),
        template=words.template,
        products=tuple(words.product),
        stored=tuple(words.stored),
        environment=dict(item.split("=", 1) for item in words.env),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="the figures of a release")
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="parts, separated by commas")
    parser.add_argument("--command", help="what to test, instead of the small pipeline; {work} is the trial's folder")
    parser.add_argument("--template", type=Path)
    parser.add_argument("--product", action="append", default=[])
    parser.add_argument("--stored", action="append", default=[])
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    words = parser.parse_args()
    report: dict[str, Any] = {"schema": 1, "seed": words.seed, "parts": {}}
    is_good = True
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        lab = Lab(target_of(words, Path(folder)), Path(folder), words.seed)
        for name, trials in parts(lab, words).items():
            start = time.monotonic()
            said = report["parts"][name] = summary(list(trials()))
            is_good = is_good and not said["bad"]
            figures = f"{said['trials']:5} trials {time.monotonic() - start:7.1f} s  {said['verdicts']}"
            print(f"{name:24} {figures}", flush=True)  # noqa: T201
            if words.json:
                words.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
