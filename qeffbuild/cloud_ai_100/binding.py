"""The Python modules of the driver, from the environment or where the SDK puts them, and the devices that it sees."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from qeffbuild.errors import AbsentError
from qeffbuild.spec.types import DeviceGroupSpec

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


def require(group: DeviceGroupSpec, who: str) -> None:
    """Raises AbsentError where a model that is to run on these devices would not."""
    binding = import_binding(who)
    if group.num_devices is None:
        check_devices(binding, group.devices)


def check_devices(binding: Binding, devices: Sequence[int]) -> None:
    """Raises where a device is not among those that the driver sees."""
    status, found = binding.runtime.Util().getDeviceIds()
    there = sorted(map(int, found)) if status == binding.runtime.QStatus.QS_SUCCESS else []
    if missing := [device for device in devices if device not in there]:
        here = f"there are {', '.join(map(str, there))}" if there else "the driver sees none"
        enough = len(there) >= len(devices)
        raise AbsentError(
            "device.absent",
            f"device_group.devices: device {missing[0]} is not there; {here}",
            hint=f"device_group.devices={there[: len(devices)]}" if enough else "`qaic-util -q` shows the devices",
        )


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
