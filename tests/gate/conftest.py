"""The demo, built in the session's store: what its gates read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qeffbuild import api
from qeffbuild.actions import gate
from qeffbuild.executor.work import Work
from qeffbuild.models import DEMO
from qeffbuild.spec.types import BuildSpec


@dataclass(frozen=True)
class Finished:
    """A finished build, and a way to hold any graph against its reference."""

    built: api.Built

    def folder(self, step: str) -> Path:
        return self.built.folder_of(step)

    def gate(self, graph: Path, out: Path, *behind: str, edge: str = "lower", **params: Any) -> None:
        asked = {"edge": edge, "level": "fast", "dtype": "float32", "tolerance": None, "kl": None, **params}
        steps = {"reference": "reference", "model": "fetch", **{name: name for name in behind}}
        inputs = {"graph": graph, **{role: self.folder(step) for role, step in steps.items()}}
        gate.run(Work(name="gate", params=asked, inputs=inputs, leaves={"model": DEMO}, out=out))


@pytest.fixture(scope="session")
def demo(spec_of: Callable[..., BuildSpec]) -> Finished:
    return Finished(api.build(spec_of()))


@pytest.fixture(scope="session")
def demo_int8(spec_of: Callable[..., BuildSpec]) -> Finished:
    return Finished(api.build(spec_of("quantization=int8")))
