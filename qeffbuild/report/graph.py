"""A plan -> mermaid, dot or JSON: what reads what, and what has to run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from qeffbuild.plan.types import Plan

FORMS = ("mermaid", "dot", "json")


def graph(plan: Plan, statuses: Mapping[str, str], form: str) -> str:
    """`statuses` says of each step by its name whether it is a "hit" or a "build"."""
    return {"mermaid": _mermaid, "dot": _dot, "json": _json}[form](plan, statuses)


def edges(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """(from, to, role); the role is empty where a step only waits for another."""
    for step in plan:
        for role, name in step.inputs.items():
            yield name, step.name, role
        for name in step.after:
            if name not in step.inputs.values():
                yield name, step.name, ""


def _mermaid(plan: Plan, statuses: Mapping[str, str]) -> str:
    names = {step.name: f"s{at}" for at, step in enumerate(plan)}
    lines = ["flowchart LR"]
    lines += [f'    {names[step.name]}["{step.name}"]:::{statuses[step.name]}' for step in plan]
    for start, end, role in edges(plan):
        lines.append(f"    {names[start]} {f'-->|{role}|' if role else '-.->'} {names[end]}")
    lines += ["    classDef hit fill:#e6f4ea,stroke:#34a853", "    classDef build fill:#fef7e0,stroke:#f9ab00"]
    return "\n".join(lines)


def _dot(plan: Plan, statuses: Mapping[str, str]) -> str:
    fills = {"hit": "#e6f4ea", "build": "#fef7e0"}
    lines = ["digraph plan {", "    rankdir=LR", '    node [shape=box style="rounded,filled"]']
    lines += [f'    "{step.name}" [fillcolor="{fills[statuses[step.name]]}"]' for step in plan]
    for start, end, role in edges(plan):
        lines.append(f'    "{start}" -> "{end}" {f"[label={json.dumps(role)}]" if role else "[style=dashed]"}')
    return "\n".join([*lines, "}"])


def _json(plan: Plan, statuses: Mapping[str, str]) -> str:
    return json.dumps(as_json(plan, statuses), indent=1)


def as_json(plan: Plan, statuses: Mapping[str, str]) -> dict[str, Any]:
    nodes = [{"name": step.name, "action": step.action, "status": statuses[step.name]} for step in plan]
    links = [{"from": start, "to": end, "role": role or None} for start, end, role in edges(plan)]
    return {"schema": 1, "goals": list(plan.goals), "nodes": nodes, "edges": links}
