"""A package for Cloud AI 100 -> a session on devices; where the driver's Python binding is missing, a clear error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qeffbuild.package import Package

if TYPE_CHECKING:
    from qeffbuild.cloud_ai_100.session import Session


def open_session(package: Package, *, threads: int | None = None, devices: Sequence[int] = ()) -> Session:
    """The session is that of every compiler for these devices; threads of the processor have no say in it."""
    from qeffbuild.cloud_ai_100.session import open_session as opened

    return opened(package, devices)
