"""What compiling the demo model for Hexagon costs: CPU seconds and peak memory of both compiles, size of the binaries.

Everything before the compiles is built first; each variant then has a cache of its own for them, and runs in turn.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 3
SHAPES = ("specialization.ctx_len=128", "specialization.prefill_seq_len=32")
VARIANTS = {
    "float16": (),
    "A16W8": ("backend.precision=a16w8",),
    "4-bit weights": ("quantization=int4",),
}


def build(cache: Path, words: tuple[str, ...], *more: str) -> dict:
    command = [sys.executable, "-m", "qeffbuild", "build", "backend=qnn", *SHAPES, *words, *more, "--json"]
    environment = {**os.environ, "QEFFBUILD_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(root: Path, name: str) -> tuple[float, int, float]:
    """CPU seconds and peak MB of the compiles, MB of both binaries."""
    before, words = root / f"{name}.before", VARIANTS[name]
    if not before.exists():
        build(before, words, "backend.tolerance=99")  # other compiles than those that are measured
    cache = root / "cache"
    shutil.copytree(before, cache)
    since = cpu_seconds()
    said = build(cache, words, "--to", "compile")
    used = cpu_seconds() - since
    steps = [step for step in said["steps"] if step["name"].startswith("compile")]
    assert all(step["result"] == "built" for step in steps)
    binaries = [Path(step["log"]).parent for step in steps]
    size = sum(file.stat().st_size for folder in binaries for file in folder.glob("out/*.bin"))
    shutil.rmtree(cache)
    return used, max(step["peak_rss_mb"] for step in steps), size / 1e6


def main() -> None:
    found: dict[str, list[tuple[float, int, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        for _ in range(RUNS):
            for name, measured in found.items():
                measured.append(measure(Path(scratch), name))
    print(f"{'demo model':<16}{'CPU s, both compiles':>22}{'peak MB':>10}{'binaries MB':>14}")
    for name, measured in found.items():
        seconds, peak, size = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{name:<16}{seconds:>22.1f}{peak:>10.0f}{size:>14.1f}")


if __name__ == "__main__":
    main()
