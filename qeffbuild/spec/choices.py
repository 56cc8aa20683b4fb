"""BuildSpec -> what a package remembers of it, enough to build the same again on another machine.

Only what differs from the defaults, and nothing that says where or how something runs: a place on this machine is
remembered as a gap, which whoever builds again must fill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from qeffbuild.spec.load import packaged
from qeffbuild.spec.text import quoted
from qeffbuild.spec.types import BuildSpec

GAP = "???"  # Hydra's word for a value that must be given

_GROUPS = ("model", "quantization", "specialization", "transforms", "gate", "device_group")
REMEMBERED = (*_GROUPS, "backend", "adapters", "recipe")  # the first parts of keys that say what is built
# Shown, said at run time, or known of the model before it is fetched: no step reads them.
_ELSEWHERE = frozenset(
    {
        *("model.name", "model.example_prompts", "model.eval_file"),
        *("model.max_position_embeddings", "model.num_hidden_layers", "model.num_key_value_heads"),
        *("device_group.devices", "device_group.num_devices", "backend.threads"),
    }
)


def choices(spec: BuildSpec) -> dict[str, Any]:
    """Dotted keys with JSON values, the backend's name first."""
    said: dict[str, Any] = {"backend": spec.backend.name}
    for group in _GROUPS:
        said |= _changed(group, getattr(spec, group))
    for key in ("path", "id", "revision") if spec.model.scale == "tiny" else ("model_type",):
        said.pop(f"model.{key}", None)  # a tiny model is made of its type, and only that
    if spec.device_group.size > 1:  # how many they are, not which ones
        said["device_group.num_devices"] = spec.device_group.size
    said |= _changed("backend", spec.backend.options)
    return said | {f"adapters.{name}": GAP for name in spec.adapters}


def words(said: Mapping[str, Any]) -> tuple[str, ...]:
    """The same as words of a command line."""
    chosen = {"model": "hf", "backend": said["backend"]}
    values = {key: value for key, value in said.items() if key != "backend"}
    return (
        *(f"{group}={quoted(choice)}" for group, choice in chosen.items()),
        *(f"{key}={quoted(value)}" for key, value in values.items()),
    )


def _changed(group: str, options: Any) -> dict[str, Any]:
    found = {}
    for field in fields(options):
        key, value = f"{group}.{field.name}", getattr(options, field.name)
        if field.metadata.get("place") and value is not None:
            value = packaged(value) or GAP
        if value != field.default and key not in _ELSEWHERE:
            found[key] = list(value) if isinstance(value, tuple) else value
    return found
