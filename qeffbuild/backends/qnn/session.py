"""A package of QNN -> a session: on a Hexagon device or its simulator, or on the cards that its target names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qeffbuild.package import Package

AIC = "aic"


def open_session(package: Package, *, threads: int | None = None, devices: Sequence[int] = ()) -> Any:
    if package.manifest.get("target") != AIC:
        from qeffbuild.backends.qnn.htp.session import open_session as open_htp

        return open_htp(package, threads=threads)
    from qeffbuild.cloud_ai_100.session import open_session as open_aic

    return open_aic(package, devices)
