"""Fixtures shared by every room: a spec from words, a plan from words, and one cache for the whole session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from qeffbuild.plan import Goal, Plan, resolve
from qeffbuild.spec.types import BuildSpec

os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the network for a model

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the session and all its processes, so that the demo is built once; never the user's own."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = tmp_path_factory.getbasetemp().parent / "cache"  # the base of all workers
        root.mkdir(exist_ok=True)
    else:
        root = tmp_path_factory.mktemp("cache")
    os.environ["QEFFBUILD_CACHE"] = str(root)
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    return root


@pytest.fixture(scope="session")
def spec_of() -> Callable[..., BuildSpec]:
    """spec_of("backend=qaic", ...) -> BuildSpec, through the real conf/."""
    from qeffbuild.spec.compose import compose
    from qeffbuild.spec.load import from_config

    def build(*overrides: str) -> BuildSpec:
        composed = compose(list(overrides), conf_dirs=())
        return from_config(composed.values, origins=composed.origins)

    return build


@pytest.fixture(scope="session")
def plan_of(spec_of: Callable[..., BuildSpec]) -> Callable[..., Plan]:
    """plan_of("backend=qaic", goal="render") -> Plan."""
    from qeffbuild import backends

    def plan(*overrides: str, goal: Goal = "package") -> Plan:
        spec = spec_of(*overrides)
        return resolve(spec, goal, backends.room(spec.backend.name, "plan").steps)

    return plan


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def qeffbuild(cache: Path) -> Run:
    """qeffbuild("plan", "model=demo", cwd=...) runs the command line in a process of its own."""

    def run(*words: str, cwd: Path | None = None, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qeffbuild", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
        return subprocess.run(
            command, cwd=cwd or ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    return run
