"""Whether the onnxruntime-qnn wheel is installed; looked up without importing anything."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from qeffbuild.errors import AbsentError

DISTRIBUTION = "onnxruntime-qnn"
_INSTALL = "pip install 'qeffbuild[qnn]' (Linux on x86-64)"


def find_wheel() -> str:
    """Its version."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError as cause:
        raise absent() from cause


def absent() -> AbsentError:
    return AbsentError("backend.absent", f"backend.target=htp: {DISTRIBUTION} is not installed", hint=_INSTALL)
