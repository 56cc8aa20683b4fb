"""A package for Cloud AI 100 -> a session on devices; where the driver's Python binding is missing, a clear error."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NoReturn

from qeffbuild.errors import AbsentError
from qeffbuild.package import Package

BINDING = "qaicrt"


def open_session(package: Package, *, threads: int | None = None, spinning: bool = False) -> NoReturn:
    """Running on devices is not part of this version: with or without the binding, this says what is missing."""
    name = package.model["name"]
    if find_spec(BINDING) is None:
        raise AbsentError(
            "backend.absent",
            f"{name}: runs on a Cloud AI 100 device, but its Python binding {BINDING} is not installed",
            hint="install the Cloud AI Platform SDK, or build for this machine with another backend",
        )
    raise AbsentError(
        "backend.absent",
        f"{name}: this version builds for Cloud AI 100 but does not run there yet",
        hint="the program is a file of the package: load it with the SDK's own tools",
    )
