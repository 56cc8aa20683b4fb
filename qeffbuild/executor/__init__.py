"""Runs the steps that the store lacks."""

from qeffbuild.executor.execute import execute
from qeffbuild.executor.outcome import Outcome
from qeffbuild.executor.reporter import PlainLines, Reporter, Silent
from qeffbuild.executor.work import Work

__all__ = ["Outcome", "PlainLines", "Reporter", "Silent", "Work", "execute"]
