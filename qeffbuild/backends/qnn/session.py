"""A package of QNN -> a session: on a Hexagon device or its simulator, or an error that says what is missing."""

from __future__ import annotations

from typing import Any

from qeffbuild.errors import AbsentError
from qeffbuild.package import Package

AIC = "aic"


def open_session(package: Package, *, threads: int | None = None) -> Any:
    if package.manifest.get("target") != AIC:
        from qeffbuild.backends.qnn.htp.session import open_session as open_htp

        return open_htp(package, threads=threads)
    name = package.model["name"]
    raise AbsentError(
        "backend.absent",
        f"{name}: this version builds for Cloud AI 100 by QNN but does not run there",
        hint="the program is a file of the package: load it with the SDK's own tools",
    )
