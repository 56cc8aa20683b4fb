"""What a sweep of 64 variants costs when nothing has to be done, and what planning one variant costs.

    python benchmarks/sweep.py [--rounds 5] [--variants 64] [--json]

CPU time, medians. A tiny random model is built for every variant first. "composed" is the sweep through Hydra's
sweeper and our launcher, "kept" the same sweep again, "answered" a build that was answered before.
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
PROGRAM = "import sys; from qeffbuild.cli import main; sys.exit(main())"
TINY = ("model=gpt2", "model.scale=tiny", "backend=onnxruntime", "device_group=one")
MOST_S = 1.5  # for a sweep of 64 variants
MOST_MS = 15.0  # for planning one more variant that differs in a value


def cpu_s(*words: str) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # byte code is kept, as for any installed program
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    swept = f"specialization.ctx_len=range(64,{64 + asked.variants})"
    one = "specialization.ctx_len=64,65"
    commands = {
        "build, composed": ("build", *TINY, "-m", swept, "hydra/sweeper=merged"),
        "build, answered": ("build", *TINY, "-m", swept),
        "plan, composed": ("plan", *TINY, "-m", swept, "hydra/sweeper=merged"),
        "plan, kept": ("plan", *TINY, "-m", swept),
        "plan of two, composed": ("plan", *TINY, "-m", one, "hydra/sweeper=merged"),
    }
    for words in commands.values():
        for _ in range(2):
            cpu_s(*words)
    rounds = [{name: cpu_s(*words) for name, words in commands.items()} for _ in range(asked.rounds)]
    medians = {name: statistics.median(measured[name] for measured in rounds) for name in commands}
    each_ms = 1e3 * (medians["plan, composed"] - medians["plan of two, composed"]) / (asked.variants - 2)
    figures = {
        "schema": 1,
        "variants": asked.variants,
        "cpu_s": {name: round(seconds, 3) for name, seconds in medians.items()},
        "planning_ms_per_variant": round(each_ms, 2),
        "passed": max(medians.values()) <= MOST_S and each_ms <= MOST_MS,
    }
    if asked.json:
        print(json.dumps(figures, indent=1))
    else:
        for name, seconds in medians.items():
            print(f"{name:<24} {seconds:>7.3f} s")
        print(f"{'each further variant':<24} {each_ms:>7.2f} ms")
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
