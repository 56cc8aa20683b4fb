"""Overrides -> the plain values of one composed configuration.

Hydra decides which choices there are and in which order they come (its defaults lists), and reads the grammar of the
overrides. Files reach it through our own reader (documents.py), so that it never meets one that was not checked. Values
are merged and overridden here, on plain dictionaries: so every mistake is named with its place, and a sweep composes
once per tuple of choices. Only defaults.py, grammar.py and references.py know Hydra and OmegaConf.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from qeffbuild import paths
from qeffbuild.errors import AbsentError, QeffBuildError
from qeffbuild.spec.assign import Target
from qeffbuild.spec.defaults import Part, list_parts
from qeffbuild.spec.grammar import Assignment, assignments
from qeffbuild.spec.keys import GROUPS, keys_of, plain_defaults, root_keys
from qeffbuild.spec.references import resolve_references
from qeffbuild.spec.sources import Sources

_HYDRA_WORDS = ("defaults", "hydra")  # keys of a file that are Hydra's, not ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """`values` are plain and resolved. `origins` says for dotted keys where they were written."""

    values: dict[str, Any]
    choices: Mapping[str, str | None]
    origins: Mapping[str, str]
    files: tuple[Path, ...] = ()
    shadowed: tuple[tuple[Path, Path], ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)  # variables that were read, and what they said


def compose(overrides: Sequence[str], *, conf_dirs: Sequence[Path] = ()) -> Composed:
    """The configuration for `overrides`; files in `conf_dirs`, the nearest first, come before the packaged ones."""
    return _composed(overrides, (*conf_dirs, paths.resource_dir("conf")), {})


def compose_variants(
    base: Sequence[str], variants: Sequence[Sequence[str]], *, conf_dirs: Sequence[Path] = ()
) -> list[Composed | QeffBuildError]:
    """For each of `variants` (overrides that follow `base`) its configuration, or why there is none.

    Composes once per tuple of choices; variants that differ in single values cost a copy.
    """
    folders = (*conf_dirs, paths.resource_dir("conf"))
    skeletons: dict[tuple[str, ...], _Skeleton] = {}
    composed: list[Composed | QeffBuildError] = []
    for variant in variants:
        try:
            composed.append(_composed([*base, *variant], folders, skeletons))
        except QeffBuildError as error:
            composed.append(error)
    return composed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Skeleton:
    """What a tuple of choices gives before single values are overridden."""

    values: dict[str, Any]
    origins: Mapping[str, str]
    choices: Mapping[str, str | None]
    sources: Sources
    free: frozenset[str]


def _composed(words: Sequence[str], folders: Sequence[Path], skeletons: dict[tuple[str, ...], _Skeleton]) -> Composed:
    said = assignments(words)
    sources = Sources(folders)
    choices = tuple(assignment for assignment in said if _chooses(assignment, sources))
    chosen = tuple(assignment.word for assignment in choices)
    if chosen not in skeletons:
        skeletons[chosen] = _skeleton(choices, sources)
    return _overridden(skeletons[chosen], [assignment for assignment in said if assignment.word not in chosen])


def _chooses(said: Assignment, sources: Sources) -> bool:
    """Whether the word chooses from a group; a mapping given to a group is a value: adapters={NAME: DIR}."""
    return sources.is_group(said.key) and not isinstance(said.value, dict)


def _overridden(skeleton: _Skeleton, said: Sequence[Assignment]) -> Composed:
    target = Target(copy.deepcopy(skeleton.values), dict(skeleton.origins), skeleton.free)
    for assignment in said:
        target.apply(assignment)
    values, environment = resolve_references(target.values, target.origins)
    return Composed(
        values=values,
        choices=skeleton.choices,
        origins=target.origins,
        files=tuple(document.path for document in skeleton.sources.read.values()),
        shadowed=skeleton.sources.shadowed(),
        environment=environment,
    )


def _skeleton(said: Sequence[Assignment], sources: Sources) -> _Skeleton:
    listed = list_parts(said, sources)
    values: dict[str, Any] = {group: plain_defaults(keys_of(cls)) for group, cls in GROUPS.items()}
    values |= {"backend": {}, "adapters": {}, **plain_defaults(root_keys())}
    origins: dict[str, str] = {}
    for part in listed.parts:
        _embed(values, origins, part)
    free = _fill_backend(values["backend"])
    return _Skeleton(values=values, origins=origins, choices=listed.choices, sources=sources, free=free)


def _embed(values: dict[str, Any], origins: dict[str, str], part: Part) -> None:
    """Merges one file into `values`, under its package."""
    own: dict[str, Any] = {key: value for key, value in part.document.values.items() if key not in _HYDRA_WORDS}
    prefix = f"{part.package}." if part.package else ""
    for name in reversed(part.package.split(".") if part.package else ()):
        own = {name: own}
    _merge(values, copy.deepcopy(own))
    for key in part.document.lines:
        if key.partition(".")[0].partition("[")[0] not in _HYDRA_WORDS:
            origins[f"{prefix}{key}"] = part.document.where(key)


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _fill_backend(said: Any) -> frozenset[str]:
    """Gives the backend's options their defaults; returns the keys whose content is free."""
    name = said.get("name") if isinstance(said, dict) else None
    if not isinstance(name, str):
        return frozenset({"adapters"})
    try:
        options = keys_of(import_module("qeffbuild.backends").room(name, "options").Options)
    except AbsentError:  # loading says so, with the place where the backend was chosen
        return frozenset({"adapters", "backend"})
    for key, value in plain_defaults(options).items():
        said.setdefault(key, value)
    return frozenset(
        {"adapters", *(f"backend.{key.name}" for key in options.values() if key.kind in ("mapping", "any"))}
    )
