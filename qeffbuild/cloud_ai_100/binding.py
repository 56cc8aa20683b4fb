"""The driver's Python modules: imported from the environment, else from where the SDK of Cloud AI 100 puts them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from qeffbuild.errors import AbsentError

RUNTIME, MESSAGES = "qaicrt", "QAicApi_pb2"
PLACES: Mapping[str, Path] = {
    RUNTIME: Path("/opt/qti-aic/dev/lib") / platform.machine(),
    MESSAGES: Path("/opt/qti-aic/dev/python"),
}


class Binding(NamedTuple):
    """`runtime` drives devices; `messages` reads what a compiled program says of its inputs and outputs."""

    runtime: ModuleType
    messages: ModuleType


def is_installed() -> bool:
    """Whether both modules are found; none is imported."""
    return all(find_spec(name) is not None or any(place.glob(f"{name}.*")) for name, place in PLACES.items())


def import_binding(who: str) -> Binding:
    """Both modules; `who` wants to run."""
    return Binding(_import(RUNTIME, who), _import(MESSAGES, who))


def _import(name: str, who: str) -> ModuleType:
    place = str(PLACES[name])
    if find_spec(name) is None and place not in sys.path:
        sys.path.append(place)  # as the SDK's own examples do
    try:
        return import_module(name)
    except ImportError as cause:
        is_missing = isinstance(cause, ModuleNotFoundError) and cause.name == name
        problem = "is not installed" if is_missing else f"does not load: {cause}"
        raise AbsentError(
            "backend.absent",
            f"{who}: runs on a Cloud AI 100 device, but its Python binding {name} {problem}",
            hint="install the Cloud AI Platform and Apps SDKs and pip install protobuf, or build for another backend",
        ) from cause
