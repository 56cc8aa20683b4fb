"""Doctor asks every backend what it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from qeffbuild import backends
from qeffbuild.report.doctor import examine


def test_every_backend_is_heard(tmp_path: Path) -> None:
    checks = {check.name: check for check in examine(tmp_path, {})}

    assert {f"backend {name}" for name in backends.names()} <= checks.keys()


def test_a_compiler_is_found_where_its_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "qaic-compile"
    compiler.write_text("#!/bin/sh\n")
    monkeypatch.setenv("QEFFBUILD_QAIC_COMPILE", str(compiler))

    without = {check.name: check for check in examine(tmp_path, {})}["backend qaic"]
    compiler.chmod(0o755)
    found = {check.name: check for check in examine(tmp_path, {})}["backend qaic"]

    assert without.ok is None
    assert without.hint is not None
    assert found.ok
    assert found.found.startswith(str(compiler))
