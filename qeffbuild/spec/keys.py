"""A dataclass of options -> its keys: what each may hold, its bounds and its meaning."""

from __future__ import annotations

import copy
import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from qeffbuild.spec.types import (
    BuildSpec,
    CacheSpec,
    DecodingSpec,
    DeviceGroupSpec,
    GateSpec,
    LaunchSpec,
    ModelSpec,
    QuantizationSpec,
    SpecializationSpec,
    TransformsSpec,
)

GROUPS: Mapping[str, type] = {
    "model": ModelSpec,
    "quantization": QuantizationSpec,
    "specialization": SpecializationSpec,
    "device_group": DeviceGroupSpec,
    "transforms": TransformsSpec,
    "gate": GateSpec,
    "decoding": DecodingSpec,
    "launch": LaunchSpec,
    "cache": CacheSpec,
}

Kind = Literal["int", "float", "bool", "text", "mapping", "any"]
_KINDS: Mapping[object, Kind] = {int: "int", float: "float", bool: "bool", str: "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One option. `many` is a list of `kind`; `choices` are the only values there are."""

    name: str
    kind: Kind
    default: Any
    doc: str
    many: bool = False
    one_or_many: bool = False
    optional: bool = False
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> str:
        """The kind in words, for messages and for the documentation."""
        if self.choices:
            return f"one of {', '.join((*self.choices, 'null') if self.optional else self.choices)}"
        one, several = _WORDS[self.kind]
        if self.many:
            return f"{one} or a list of {several}" if self.one_or_many else f"a list of {several}"
        return f"{one} or null" if self.optional else one

    @property
    def bounds(self) -> str:
        """`1 to 64`, `at least 1`, or nothing."""
        if self.low is None and self.high is None:
            return ""
        if self.high is None:
            return f"at least {self.low:,}"
        if self.low is None:
            return f"at most {self.high:,}"
        return f"{self.low:,} to {self.high:,}"


_WORDS: Mapping[Kind, tuple[str, str]] = {
    "int": ("a whole number", "whole numbers"),
    "float": ("a number", "numbers"),
    "bool": ("true or false", "true and false"),
    "text": ("text", "texts"),
    "mapping": ("a mapping of names to texts", "mappings"),
    "any": ("any value", "values"),
}


@lru_cache(maxsize=64)
def keys_of(cls: type) -> Mapping[str, Key]:
    """The options of one dataclass by name, in the order in which it declares them."""
    hints = typing.get_type_hints(cls)
    return {field.name: _key(field, hints[field.name]) for field in dataclasses.fields(cls)}


@lru_cache(maxsize=1)
def root_keys() -> Mapping[str, Key]:
    """The keys of a build that belong to no group: prompts, out, runs ..."""
    own = (field for field in dataclasses.fields(BuildSpec) if field.metadata)
    hints = typing.get_type_hints(BuildSpec)
    return {field.name: _key(field, hints[field.name]) for field in own}


def plain_defaults(keys: Mapping[str, Key]) -> dict[str, Any]:
    """The default of each key as a JSON value."""
    return {name: list(key.default) if key.many else copy.copy(key.default) for name, key in keys.items()}


def _key(field: dataclasses.Field[Any], hint: Any) -> Key:
    inner, optional = _without_none(hint)
    many = typing.get_origin(inner) is tuple
    if many:
        inner = typing.get_args(inner)[0]
    literal = typing.get_origin(inner) is Literal
    return Key(
        name=field.name,
        kind="text" if literal else _kind(inner),
        default=_default(field),
        doc=field.metadata.get("doc", ""),
        many=many,
        one_or_many=field.metadata.get("one_or_many", False),
        optional=optional,
        choices=typing.get_args(inner) if literal else (),
        low=field.metadata.get("low"),
        high=field.metadata.get("high"),
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _kind(hint: Any) -> Kind:
    if typing.get_origin(hint) in (Mapping, dict):
        return "mapping"
    return _KINDS.get(hint, "any")


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    return parts[0], len(parts) < len(typing.get_args(hint))
