"""The actions of the small pipeline that faults are pointed at: pure Python, the same bytes for the same input."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path


def note(name: str) -> None:
    """Say in the trial's log that this step has really run, and take the time that the trial asks for."""
    if log := os.environ.get("STEPLOG"):
        with open(log, "a") as file:
            file.write(name + "\n")
    time.sleep(float(os.environ.get("STEP_SECONDS", "0")))


def grow(seed: bytes, blocks: int, path: Path) -> None:
    """Write bytes that depend on every byte of the seed, in pieces."""
    block = sha256(seed).digest()
    with open(path, "wb") as file:
        for _ in range(blocks):
            block = sha256(block).digest()
            file.write(block * 64)
