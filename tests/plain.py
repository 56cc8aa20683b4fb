"""Specs that say nothing but their backend, for tests of what checks or plans a part of one."""

from __future__ import annotations

from typing import Any

from qeffbuild import backends
from qeffbuild.spec.types import (
    BackendSpec,
    BuildSpec,
    CacheSpec,
    DecodingSpec,
    DeviceGroupSpec,
    LaunchSpec,
    ModelSpec,
    QuantizationSpec,
    SpecializationSpec,
)


def plain(backend: str, options: Any = None, **parts: Any) -> BuildSpec:
    """`plain("qaic", model=ModelSpec(path="somewhere"))`: what is not named is as it is by default."""
    usual: dict[str, Any] = {
        "model": ModelSpec(),
        "quantization": QuantizationSpec(),
        "specialization": SpecializationSpec(),
        "device_group": DeviceGroupSpec(),
        "decoding": DecodingSpec(),
        "adapters": {},
        "launch": LaunchSpec(),
        "cache": CacheSpec(),
    }
    options = options or backends.room(backend, "options").Options()
    return BuildSpec(backend=BackendSpec(name=backend, options=options), **{**usual, **parts})
