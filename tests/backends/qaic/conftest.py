"""Lets the tests of this folder import what they share; a compiler and a card that are played."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
for folder in (HERE.parents[1] / "transforms", HERE):
    sys.path.insert(0, str(folder))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The played binding, as if it were installed."""
    from qeffbuild.cloud_ai_100 import binding

    monkeypatch.syspath_prepend(str(HERE / "played_sdk"))
    import qaicrt

    yield qaicrt
    for name in (binding.RUNTIME, binding.MESSAGES):
        sys.modules.pop(name, None)


@pytest.fixture
def played_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program whose programs the played card runs."""
    monkeypatch.delenv("QEFFBUILD_QAIC_COMPILE", raising=False)
    compiler = tmp_path / "qaic-compile"
    compiler.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "played_compiler.py"} "$@"\n')
    compiler.chmod(0o755)
    return compiler
