"""Which graphs a build holds against PyTorch, and what waits for that."""

from __future__ import annotations

from collections.abc import Callable

from still_world import Still

from qeffbuild.plan import Plan
from qeffbuild.plan.keys import deep_keys

PlanOf = Callable[..., Plan]


def gates(plan: Plan) -> list[str]:
    return [step.name for step in plan if step.name.startswith("gate")]


def test_fast_looks_at_the_graph_that_a_build_ends_with(plan_of: PlanOf) -> None:
    assert gates(plan_of("quantization=int8")) == ["gate[lower]"]


def test_full_looks_at_the_graph_of_every_step(plan_of: PlanOf) -> None:
    plan = plan_of("model.kv_head_replication=2", "quantization=int8", "gate=full")

    assert gates(plan) == ["gate[export]", "gate[transform]", "gate[quantize]", "gate[lower]"]


def test_both_forms_of_a_graph_are_looked_at(plan_of: PlanOf) -> None:
    assert gates(plan_of("quantization=int4", "backend.profile=fast")) == ["gate[lower]", "gate[lower.prefill]"]


def test_a_verdict_counts_for_the_library_that_it_was_found_with(plan_of: PlanOf) -> None:
    class Newer(Still):
        def tool(self, distribution: str) -> str:
            return "2" if distribution == "onnxruntime" else ""

    plan = plan_of("quantization=int8")
    old, new = (deep_keys(plan, world) for world in (Still(), Newer()))

    assert [name for name in old if old[name] != new[name]] == ["gate[lower]", "package"]


def test_none_leaves_no_trace_in_the_plan(plan_of: PlanOf) -> None:
    plan = plan_of("gate=none")

    assert [step.name for step in plan] == ["fetch", "check", "export", "lower", "package"]
    assert set(plan["package"].inputs) == {"graph", "model", "exported"}


def test_a_package_reads_its_gates_and_a_compiler_waits_for_them(plan_of: PlanOf) -> None:
    plan = plan_of("backend=qaic", "model=gpt2")

    assert plan["package"].inputs["gate[lower]"] == "gate[lower]"
    assert plan["compile"].after == ("gate[lower]",)
    assert "gate[lower]" not in plan["render"].after


def test_documents_alone_are_gated_where_everything_is(plan_of: PlanOf) -> None:
    fast, full = (plan_of("backend=qaic", f"gate={level}", goal="render") for level in ("fast", "full"))

    assert gates(fast) == []
    assert gates(full) == ["gate[export]", "gate[lower]"]


def test_another_quantization_looks_at_the_export_no_second_time(plan_of: PlanOf) -> None:
    one, other = (plan_of("gate=full", f"quantization={name}") for name in ("int8", "int4"))

    assert one["gate[export]"] == other["gate[export]"]
    assert one["reference"] == other["reference"]
