from __future__ import annotations

import pytest

from qeffbuild.executor.once import Room
from qeffbuild.executor.twice import run_twice
from qeffbuild.plan.keys import deep_keys
from qeffbuild.plan.merge import merge
from qeffbuild.plan.types import Plan


@pytest.mark.parametrize(
    ("do", "different"),
    [((), ()), (("work.out.joinpath('pid').write_text(str(os.getpid()))",), ("pid",))],
    ids=["reproducible", "depends on its process"],
)
def test_files_that_come_out_different_are_named(workshop, do, different):
    plan = Plan((workshop.step("export", do=do),), ("export",))
    node = next(iter(merge([(plan, deep_keys(plan, workshop.world))])))
    room = Room(
        store=workshop.store,
        world=workshop.world,
        reporter=workshop.heard,
        timeout_s=60,
        memory_mb=None,
        locate=None,
        in_process=(),
    )

    assert run_twice(node, {}, room) == different
    assert workshop.store.find(node.key.digest) is None
