"""What leads to what, and what a change of the spec reaches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qeffbuild.errors import SpecError
from qeffbuild.plan import Plan


def names(plan: Plan) -> list[str]:
    return [step.name for step in plan]


def changed(one: Plan, other: Plan) -> list[str]:
    """Names of the steps that say something else themselves, not through their inputs."""
    return [a.name for a, b in zip(one, other, strict=True) if a != b]


def test_the_default_build_leads_from_a_fetch_to_a_package(plan_of: Callable[..., Plan]) -> None:
    assert names(plan_of()) == ["fetch", "check", "export", "lower", "reference", "gate[lower]", "package"]


def test_quantization_comes_between_export_and_lowering(plan_of: Callable[..., Plan]) -> None:
    steps = names(plan_of("quantization=int8", "gate=none"))

    assert steps == ["fetch", "check", "export", "quantize", "lower", "package"]


def test_a_goal_leaves_out_what_it_does_not_need(plan_of: Callable[..., Plan]) -> None:
    assert names(plan_of(goal="export")) == ["fetch", "check", "export"]


def test_a_goal_that_a_backend_does_not_have_is_refused(plan_of: Callable[..., Plan]) -> None:
    with pytest.raises(SpecError) as refused:
        plan_of(goal="compile")

    assert refused.value.kind == "spec.conflict"


def test_a_change_of_context_length_reaches_only_the_steps_that_read_it(plan_of: Callable[..., Plan]) -> None:
    short, long = plan_of("specialization.ctx_len=128"), plan_of("specialization.ctx_len=256")

    assert changed(short, long) == ["check", "package"]


def test_another_backend_exports_nothing_anew(plan_of: Callable[..., Plan]) -> None:
    here, there = plan_of("backend=onnxruntime", goal="export"), plan_of("backend=qaic", goal="export")

    assert here == there


def test_another_quantization_exports_nothing_anew(plan_of: Callable[..., Plan]) -> None:
    plain, small = plan_of(), plan_of("quantization=int8")

    assert plain["export"] == small["export"]


def test_how_tokens_are_chosen_is_no_part_of_a_build(plan_of: Callable[..., Plan]) -> None:
    greedy, sampled = plan_of(), plan_of("decoding.temperature=0.8", "prompts=[Hi]", "launch.jobs=2")

    assert greedy == sampled


def test_a_tiny_model_reads_nothing_from_outside(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("model=gpt2", "model.scale=tiny")

    assert all(step.leaves == () for step in plan)
