"""What was cut -> the same, shaped by a parameter."""

from __future__ import annotations

import fault_actions
from qeffbuild.executor.work import Work


def run(work: Work) -> None:
    seed = (work.inputs["cut"] / "cut.bin").read_bytes()
    fault_actions.note("shape")
    fault_actions.grow(seed + work.params["twist"].encode(), work.params["blocks"], work.out / "shape.bin")
