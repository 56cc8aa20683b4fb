from __future__ import annotations

import pytest

from qeffbuild.executor.again import run_again
from qeffbuild.executor.once import Room


@pytest.mark.parametrize(
    ("do", "different"),
    [((), ()), (("work.out.joinpath('pid').write_text(str(os.getpid()))",), ("pid",))],
    ids=["reproducible", "depends on its process"],
)
def test_files_that_come_out_different_are_named(workshop, do, different):
    step = workshop.step("export", do=do)
    once = workshop.build(step)["export"].entry
    room = Room(
        store=workshop.store,
        world=workshop.world,
        reporter=workshop.heard,
        timeout_s=60,
        memory_mb=None,
        locate=None,
        in_process=(),
    )

    assert run_again(step, {}, once, room) == different
