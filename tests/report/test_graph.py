"""A plan as a picture."""

from __future__ import annotations

import json

from qeffbuild.plan import Plan, Step
from qeffbuild.report.graph import graph

PLAN = Plan(
    (
        Step(name="fetch", action="a"),
        Step(name="check", action="b", inputs={"model": "fetch"}),
        Step(name="compile[decode]", action="c", inputs={"model": "fetch"}, after=("check",)),
    ),
    ("compile[decode]",),
)
STATUSES = {"fetch": "hit", "check": "hit", "compile[decode]": "build"}


def test_mermaid_draws_what_is_read_and_what_is_waited_for() -> None:
    lines = [line.strip() for line in graph(PLAN, STATUSES, "mermaid").splitlines()]

    assert 's2["compile[decode]"]:::build' in lines
    assert "s0 -->|model| s2" in lines
    assert "s1 -.-> s2" in lines


def test_dot_draws_the_same() -> None:
    drawn = graph(PLAN, STATUSES, "dot")

    assert '"fetch" -> "compile[decode]" [label="model"]' in drawn
    assert '"check" -> "compile[decode]" [style=dashed]' in drawn


def test_json_lists_nodes_and_edges() -> None:
    said = json.loads(graph(PLAN, STATUSES, "json"))

    assert [node["status"] for node in said["nodes"]] == ["hit", "hit", "build"]
    assert {"from": "check", "to": "compile[decode]", "role": None} in said["edges"]
