"""A source file -> its digest and its bytes, drawn out."""

from __future__ import annotations

import fault_actions
from qeffbuild.executor.work import Work


def run(work: Work) -> None:
    seed = work.leaves["source"].read_bytes()
    fault_actions.note("cut")
    fault_actions.grow(seed, work.params["blocks"], work.out / "cut.bin")
    (work.out / "notes").mkdir()
    (work.out / "notes" / "facts.txt").write_text(f"{len(seed)} bytes\n")
