from __future__ import annotations

from hashlib import sha256

from qeffbuild.plan.keys import Key
from qeffbuild.plan.merge import merge
from qeffbuild.plan.types import Plan, Step


def keyed(*steps: Step, goal: str, **keys: str) -> tuple[Plan, dict[str, Key]]:
    """A plan whose keys are told apart by the words given."""
    digests = {step.name: Key(sha256(keys.get(step.name, step.name).encode()).hexdigest(), {}) for step in steps}
    return Plan(steps, (goal,)), digests


FETCH = Step(name="fetch", action="fetch")
CHECK = Step(name="check", action="check", inputs={"model": "fetch"})
EXPORT = Step(name="export", action="export", inputs={"model": "fetch"}, after=("check",))
EXPORT_ALONE = Step(name="export", action="export", inputs={"model": "fetch"})
COMPILE = Step(name="compile", action="compile", inputs={"graph": "export"})


def test_a_step_that_two_plans_share_occurs_once_and_knows_both():
    short = keyed(FETCH, EXPORT_ALONE, COMPILE, goal="compile", compile="ctx 128")
    long = keyed(FETCH, EXPORT_ALONE, COMPILE, goal="compile", compile="ctx 256")

    merged = merge([short, long])

    assert [(node.step.name, node.variants) for node in merged] == [
        ("fetch", (0, 1)),
        ("export", (0, 1)),
        ("compile", (0,)),
        ("compile", (1,)),
    ]
    assert merged.goals == ((short[1]["compile"].digest,), (long[1]["compile"].digest,))


def test_every_node_comes_after_what_it_reads():
    plans = [keyed(FETCH, EXPORT_ALONE, COMPILE, goal="compile", compile=f"c{n}", export=f"e{n % 2}") for n in range(6)]

    merged = merge(plans)

    order = list(merged.nodes)
    for node in merged:
        assert all(order.index(name) < order.index(node.key.digest) for name in node.inputs.values())
    assert len(order) == 1 + 2 + 6


def test_a_shared_step_keeps_each_variants_own_condition():
    first = keyed(FETCH, CHECK, EXPORT, goal="export", check="a")
    second = keyed(FETCH, CHECK, EXPORT, goal="export", check="b")

    merged = merge([first, second])

    export = merged.nodes[first[1]["export"].digest]
    assert export.after == (frozenset({first[1]["check"].digest}), frozenset({second[1]["check"].digest}))


def test_a_check_below_a_goal_is_looked_at_like_a_goal():
    plan = keyed(FETCH, CHECK, EXPORT, COMPILE, goal="compile")

    roots = merge([plan]).roots()

    assert roots == (plan[1]["compile"].digest, plan[1]["check"].digest)
