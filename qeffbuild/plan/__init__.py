"""Which steps lead from a spec to what was asked for, and what their results depend on. Nothing is read or run."""

from qeffbuild.plan.resolve import model_leaves, resolve
from qeffbuild.plan.types import GOALS, Goal, Leaf, Plan, Step

__all__ = ["GOALS", "Goal", "Leaf", "Plan", "Step", "model_leaves", "resolve"]
