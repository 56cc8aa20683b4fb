"""Runs the steps that the store lacks."""

from qeffbuild.executor.execute import execute
from qeffbuild.executor.outcome import Outcome
from qeffbuild.executor.reporter import PlainLines, Reporter, Silent

__all__ = ["Outcome", "PlainLines", "Reporter", "Silent", "execute"]
