"""The demo, built in the session's store: what its gates read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from qeffbuild import api
from qeffbuild.actions import gate
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.models import DEMO
from qeffbuild.spec.types import BuildSpec


@dataclass(frozen=True)
class Finished:
    """A finished build, and a way to hold any graph against its reference."""

    built: api.Built
    model: Path | None = DEMO

    def folder(self, step: str) -> Path:
        return self.built.folder_of(step)

    def gate(self, graph: Path, out: Path, *behind: str, edge: str = "lower", **params: Any) -> None:
        asked = {"edge": edge, "level": "fast", "dtype": "float32", "tolerance": None, "kl": None, **params}
        steps = {"reference": "reference", "model": "fetch", **{name: name for name in behind}}
        inputs = {"graph": graph, **{role: self.folder(step) for role, step in steps.items()}}
        gate.run(
            Work(name="gate", params=asked, inputs=inputs, leaves={"model": self.model} if self.model else {}, out=out)
        )


@pytest.fixture(scope="session")
def demo(spec_of: Callable[..., BuildSpec]) -> Finished:
    return Finished(api.build(spec_of()))


@pytest.fixture(scope="session")
def tiny(spec_of: Callable[..., BuildSpec]) -> Callable[..., Finished]:
    """A tiny random model of a family, built once for each choice of words."""

    @cache
    def build(*words: str) -> Finished:
        return Finished(api.build(spec_of("model=hf", "model.scale=tiny", *words)), model=None)

    return build


@pytest.fixture(scope="session")
def demo_int8(spec_of: Callable[..., BuildSpec]) -> Finished:
    return Finished(api.build(spec_of("quantization=int8")))


@pytest.fixture(scope="session")
def exchanged() -> Callable[..., Path]:
    return _exchanged


def _exchanged(folder: Path, out: Path, one: str, other: str, graph: str = "graph.onnx") -> Path:
    """A copy of a step's folder in whose graph one weight points at the bytes of another, of the same shape."""
    shutil.copytree(folder, out)
    model = load_graph(folder / graph)
    values = {value.const_value.name: value for value in model.graph.initializers.values()}
    wrong = values[other].const_value
    assert isinstance(wrong, ir.ExternalTensor)
    assert wrong.shape == values[one].const_value.shape
    values[one].const_value = wrong
    (out / graph).unlink()
    save_graph(model, out / graph)
    return out
