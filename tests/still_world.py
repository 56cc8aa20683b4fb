"""A world in which nothing is found outside the plan."""

from __future__ import annotations

from qeffbuild.plan.types import Leaf


class Still:
    def leaf(self, leaf: Leaf) -> str:
        return ""

    def code(self, module: str) -> str:
        return ""

    def tool(self, distribution: str) -> str:
        return ""

    def env(self, name: str) -> str | None:
        return None
