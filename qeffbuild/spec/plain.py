"""BuildSpec -> the JSON values that `load.from_config` makes the same BuildSpec of: for lock files and caches."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from qeffbuild import paths
from qeffbuild.spec.load import PACKAGED
from qeffbuild.spec.types import BuildSpec

_NOT_SAID = ("backend", "is_ctx_len_asked")  # the first in words of its own, the second by the origins of a file


def plain(spec: BuildSpec) -> dict[str, Any]:
    """The same text on every machine: a folder of this package is named `package:`, not by its path."""
    names = (field.name for field in fields(spec) if field.name not in _NOT_SAID)
    said = {name: _json(_fields(getattr(spec, name))) for name in names}
    said["backend"] = {"name": spec.backend.name, **_json(asdict(spec.backend.options))}
    if spec.model.path is not None and Path(spec.model.path).is_relative_to(paths.HERE):
        said["model"]["path"] = f"{PACKAGED}{Path(spec.model.path).relative_to(paths.HERE).as_posix()}"
    return said


def _fields(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    return {name: _json(item) for name, item in value.items()} if isinstance(value, dict) else value
