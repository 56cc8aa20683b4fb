"""Composed configuration -> BuildSpec: every key known, every value of its type and within its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from qeffbuild import paths
from qeffbuild.errors import AbsentError, SpecError
from qeffbuild.spec import checks
from qeffbuild.spec.keys import GROUPS, Key, keys_of, root_keys
from qeffbuild.spec.text import nearest, shown, unwelcome
from qeffbuild.spec.types import BackendSpec, BuildSpec, ModelSpec, QuantizationSpec

PACKAGED = "package:"  # model.path=package:models/demo lies in this package, wherever it is installed
_OWN = ("model", "quantization")  # groups with paths of files that come with the package
_DEFAULT = "specialization/chat.yaml"  # what is chosen where nothing is
_PROSE = ("prompts", "model.example_prompts")


def from_config(values: Mapping[str, Any], *, origins: Mapping[str, str] = MappingProxyType({})) -> BuildSpec:
    """Raise SpecError on the first key that is unknown, missing, of another type or out of bounds.

    `origins` says for dotted keys where they were written; the error shows it.
    """
    door = _Door(origins)
    door.refuse_unknown("", values, (*GROUPS, "backend", "adapters", *root_keys()))
    door.refuse_missing(values)
    model = door.record("model", ModelSpec, values.get("model", {}))
    door = _Door(origins, _ceilings(model))
    spec = BuildSpec(
        model=_located(model),
        backend=_backend(door, values.get("backend", {})),
        adapters=door.texts("adapters", values.get("adapters") or {}),
        quantization=_calibrated(door.record("quantization", QuantizationSpec, values.get("quantization", {}))),
        **{name: door.record(name, cls, values.get(name, {})) for name, cls in GROUPS.items() if name not in _OWN},
        **{name: door.value(name, key, values[name]) for name, key in root_keys().items() if name in values},
        is_ctx_len_asked=_DEFAULT not in origins.get("specialization.ctx_len", ""),
    )
    checks.check(spec, origins)
    return spec


def _backend(door: _Door, said: Any) -> BackendSpec:
    door.want_mapping("backend", said)
    name = said.get("name")
    if not isinstance(name, str):
        door.refuse(
            "spec.missing" if name is None else "spec.type", "backend.name", "no backend is named", "backend=NAME"
        )
    options = {key: value for key, value in said.items() if key != "name"}
    try:
        cls = import_module("qeffbuild.backends").room(name, "options").Options
    except AbsentError as error:
        raise AbsentError(error.kind, error.message, where=door.origins.get("backend.name"), hint=error.hint) from error
    return BackendSpec(name=name, options=door.record("backend", cls, options))


def _ceilings(model: ModelSpec) -> Mapping[str, tuple[int, str]]:
    """Upper bounds that the model sets, each with the hint that leads past it."""
    if model.scale == "tiny" or model.allow_extended_context or model.max_position_embeddings is None:
        return {}
    hint = "that is model.max_position_embeddings; model.allow_extended_context=true goes beyond it"
    return {"specialization.ctx_len": (model.max_position_embeddings, hint)}


def _located(model: ModelSpec) -> ModelSpec:
    """The same model, its `package:` paths turned into real ones."""
    path, text = _unpacked("model.path", model.path), _unpacked("model.eval_file", model.eval_file)
    return replace(model, path=path, eval_file=text)


def _calibrated(quantization: QuantizationSpec) -> QuantizationSpec:
    text = _unpacked("quantization.calibration", quantization.calibration)
    return replace(quantization, calibration=text or "")


def packaged(path: str) -> str | None:
    """The `package:` form of a path that comes with this package, None of another."""
    place = Path(path)
    return f"{PACKAGED}{place.relative_to(paths.HERE).as_posix()}" if place.is_relative_to(paths.HERE) else None


def _unpacked(key: str, path: str | None) -> str | None:
    if path is None or not path.startswith(PACKAGED):
        return path
    inside = path.removeprefix(PACKAGED)
    if inside.startswith("/") or ".." in inside.split("/"):
        raise SpecError("path.outside", f"{key}: {shown(path)} leaves the package", hint=f"{key}=PATH")
    return str(paths.HERE / inside)


@dataclass(frozen=True, slots=True)
class _Door:
    """Reads values by their keys; knows where each was written."""

    origins: Mapping[str, str]
    ceilings: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def refuse(self, kind: str, path: str, what: str, hint: str | None = None) -> NoReturn:
        raise SpecError(kind, f"{path}: {what}", where=origin_of(path, self.origins), hint=hint)

    def refuse_unknown(self, prefix: str, said: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for name in said:
            if name in known:
                continue
            close = nearest(str(name), known)
            hint = f"did you mean {prefix}{close}?" if close else f"known keys: {', '.join(known)}"
            self.refuse("spec.unknown", f"{prefix}{name}", "no such key", hint)

    def refuse_missing(self, values: Mapping[str, Any]) -> None:
        """`???` marks a value that a user must give; all of them are named at once."""
        wanting = sorted(_wanting("", dict(values)))
        if wanting:
            what = "no value given" if len(wanting) == 1 else f"no value given (and none for {', '.join(wanting[1:])})"
            self.refuse("spec.missing", wanting[0], what, " ".join(f"{path}=VALUE" for path in wanting[:5]))

    def want_mapping(self, path: str, said: Any) -> None:
        if not isinstance(said, dict):
            self.refuse("spec.type", path, f"found {shown(said)} instead of keys and values", f"{path}.KEY=VALUE")

    def record(self, path: str, cls: type, said: Any) -> Any:
        """The dataclass `cls` filled from the mapping `said`."""
        self.want_mapping(path, said)
        keys = keys_of(cls)
        self.refuse_unknown(f"{path}.", said, tuple(keys))
        return cls(**{name: self.value(f"{path}.{name}", keys[name], value) for name, value in said.items()})

    def value(self, path: str, key: Key, value: Any) -> Any:
        if value is None and key.optional:
            return None
        if key.kind == "mapping":
            return self.texts(path, value)
        if not key.many:
            return self.item(path, key, value)
        if key.one_or_many and not isinstance(value, (list, tuple)):
            return (self.item(path, key, value),)
        if not isinstance(value, (list, tuple)):
            hint = f"{path}=[{value}]" if isinstance(value, int) else f'{path}=["...","..."]'
            self.refuse("spec.type", path, f"found {shown(value)} instead of {key.holds}", hint)
        return tuple(self.item(path, key, item) for item in value)

    def item(self, path: str, key: Key, value: Any) -> Any:
        if key.kind in ("int", "float"):
            return self.number(path, key, value)
        if key.kind == "any":
            return value
        if not isinstance(value, bool if key.kind == "bool" else str):
            self.refuse("spec.type", path, f"found {shown(value)} instead of {key.holds}", _type_hint(path, key, value))
        if isinstance(value, bool):
            return value
        if key.choices and value not in key.choices:
            close = nearest(value, key.choices)
            hint = f"did you mean {path}={close}?" if close else key.holds
            self.refuse("spec.choice", path, f"found {shown(value)}, which is not {key.holds}", hint)
        if not key.choices:
            self.clean(path, value)
        return value

    def number(self, path: str, key: Key, value: Any) -> int | float:
        """A number far out of its bounds is said to be so, whatever its type: 1e12 is no context length."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
            self.refuse("spec.type", path, f"found {shown(value)} instead of {key.holds}", _type_hint(path, key, value))
        high, why = self.ceilings.get(path, (key.high, None))
        if (key.low is not None and value < key.low) or (high is not None and value > high):
            low = "" if key.low is None else f"{key.low:,}"
            allowed = f"{low} to {high:,}" if high is not None else f"at least {low}"
            self.refuse("spec.range", path, f"{shown(value)} is out of range, which is {allowed}", why)
        if key.kind == "int" and not isinstance(value, int):
            self.refuse("spec.type", path, f"found {shown(value)} instead of {key.holds}", _type_hint(path, key, value))
        return value if key.kind == "int" else float(value)

    def texts(self, path: str, said: Any) -> Mapping[str, str]:
        """Names to texts."""
        self.want_mapping(path, said)
        for name, value in said.items():
            if not isinstance(value, str):
                self.refuse(
                    "spec.type", f"{path}.{name}", f"found {shown(value)} instead of text", f"{path}.{name}=TEXT"
                )
            self.clean(path, str(name))
            self.clean(f"{path}.{name}", value)
        return dict(said)

    def clean(self, path: str, value: str) -> None:
        if not value and path.startswith("backend."):
            self.refuse("backend.option", path, "it is empty", "leave it out")
        if value.isascii() and value.isprintable():
            return
        if found := unwelcome(value, prose=path in _PROSE):
            place, what = found
            kind = "backend.option" if path.startswith("backend.") else "spec.text"  # it could end up in a command
            self.refuse(kind, path, f"character {place + 1} of {shown(value)} is {what}", "remove it")


def origin_of(path: str, origins: Mapping[str, str]) -> str | None:
    """Where `path`, or else the nearest key above it, was written."""
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return None


def _wanting(path: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [path] if value == "???" else []
    if isinstance(value, dict):
        return [
            key for name, inner in value.items() for key in _wanting(f"{path}.{name}" if path else str(name), inner)
        ]
    return []


def _is_finite(value: int | float) -> bool:
    return isinstance(value, int) or isfinite(value)


def _type_hint(path: str, key: Key, value: Any) -> str | None:
    if key.kind == "bool":
        return f"{path}=true or {path}=false"
    if key.kind == "int" and isinstance(value, float) and _is_finite(value) and value == int(value):
        return f"{path}={int(value)}"
    if key.kind == "text" and isinstance(value, (int, float)):
        return f"""quote it: '{path}="{shown(value)}"'"""
    return None
