"""A wheel, an editable install and a checkout all find the same files."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, cwd=folder)
    return next(folder.glob("*.whl"))


def test_every_package_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent for room in ("qeffbuild", "hydra_plugins") for path in (ROOT / room).rglob("*.py")}
    present = {".".join(folder.relative_to(ROOT).parts) for folder in folders}

    assert present <= listed
    assert listed - present == {"qeffbuild.conf", "qeffbuild.templates"}


@pytest.mark.slow
def test_the_wheel_carries_configuration_templates_and_the_demo_model(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    conf = {f"qeffbuild/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    templates = {f"qeffbuild/{path.relative_to(ROOT)}" for path in (ROOT / "templates").rglob("*.j2")}
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "qeffbuild" / "models" / "demo").iterdir()}
    assert conf | templates | data <= names


@pytest.mark.slow
def test_an_installed_wheel_plans_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True
    )
    program = (
        "import sys, qeffbuild; from qeffbuild.cli import main; print(qeffbuild.__file__, file=sys.stderr); main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "QEFFBUILD_CACHE": str(tmp_path / "cache")}

    done = subprocess.run(
        [sys.executable, "-c", program, "plan", "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert str(site) in done.stderr
    assert '"name": "package"' in done.stdout or '"name":"package"' in done.stdout
