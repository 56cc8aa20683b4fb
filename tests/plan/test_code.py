"""A step is keyed by all code that makes its result: what its action imports is in the step's own list."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import qeffbuild
from qeffbuild.plan import Plan

PACKAGE = Path(qeffbuild.__file__).parent

# Rooms that carry a step out without a say in its result, and what is decided before a plan is there: that comes to
# the step as parameters. `for_task` and other modules of the spec's room that an action calls are not among them.
CARRIERS = ("errors", "paths", "executor", "store", "plan")
DECIDED = ("spec.types", "spec.choices", "spec.matrix")

LISTS = {
    "embedded": ("recipe=demo", "quantization=int4", "backend.profile=fast", "gate=full"),
    "embedded_budget": ("recipe=demo", "quantization=auto", "quantization.kv_cache=int8"),
    "embedded_passes": ("recipe=demo", "transforms.blocking_mode=kv", "transforms.num_kv_blocks=2"),
    "qaic": ("model=llama", "backend=qaic", "device_group=x4", "gate=full"),
    "qnn_htp": ("recipe=demo", "backend=qnn", "backend.precision=a16w8", "specialization.prefill_seq_len=32"),
    "qnn_aic": ("model=llama", "backend=qnn", "backend.target=aic"),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_step_lists_whatever_its_action_imports(case: str, plan_of: Callable[..., Plan]) -> None:
    left_out = {
        f"{step.name} leaves out {module}"
        for step in plan_of(*LISTS[case]).steps
        for module in imported(step.action)
        if not any(is_in(module, room) for room in (step.action, *step.code))
    }

    assert sorted(left_out) == []


def imported(action: str) -> set[str]:
    """The modules of ours that an action imports, itself or by others; carriers end the way."""
    found: set[str] = set()
    todo = [action]
    while todo:
        module = todo.pop()
        if module not in found and not is_carrier(module):
            found.add(module)
            todo += imports(module)
    return found


def is_carrier(module: str) -> bool:
    carriers = (*CARRIERS, *DECIDED)
    return any(is_in(module, f"qeffbuild.{name}") for name in carriers) or module.endswith(".options")


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@cache
def imports(module: str) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if source(name).exists() else node.module for name in inner]
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return tuple(name for name in names if name.startswith("qeffbuild.") and source(name).exists())


def source(module: str) -> Path:
    place = PACKAGE.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
