"""Overrides -> the plain values of one composed configuration.

Hydra decides which choices there are and in which order they come (its defaults lists), and reads the grammar of the
overrides. Files reach it through our own reader (documents.py), so that it never meets one that was not checked. Values
are merged and overridden here, on plain dictionaries: so every mistake is named with its place, and a sweep composes
once per tuple of choices. Only this module, grammar.py and references.py know Hydra and OmegaConf.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import version as hydra_version
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qeffbuild import paths
from qeffbuild.errors import AbsentError, PathError, SpecError
from qeffbuild.spec.assign import Target, refuse_unknown
from qeffbuild.spec.documents import Document
from qeffbuild.spec.grammar import COMMAND_LINE, Assignment, assignments
from qeffbuild.spec.keys import GROUPS, keys_of, plain_defaults, root_keys
from qeffbuild.spec.references import refuse_resolvers, resolve_references
from qeffbuild.spec.sources import Sources
from qeffbuild.spec.text import is_choice, shown

ROOT = "build"
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
    return compose_variants(overrides, [()], conf_dirs=conf_dirs)[0]


def compose_variants(
    base: Sequence[str], variants: Sequence[Sequence[str]], *, conf_dirs: Sequence[Path] = ()
) -> list[Composed]:
    """The configuration for `base` with each of `variants`: composed once per tuple of choices, then overridden."""
    folders = (*conf_dirs, paths.resource_dir("conf"))
    skeletons: dict[tuple[str, ...], _Skeleton] = {}
    composed = []
    for variant in variants:
        said = assignments([*base, *variant])
        sources = Sources(folders)
        choices = tuple(assignment for assignment in said if _chooses(assignment, sources))
        words = tuple(assignment.word for assignment in choices)
        if words not in skeletons:
            skeletons[words] = _skeleton(choices, sources)
        composed.append(_overridden(skeletons[words], [item for item in said if item not in choices]))
    return composed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Skeleton:
    """What a tuple of choices gives before single values are overridden."""

    values: dict[str, Any]
    origins: Mapping[str, str]
    choices: Mapping[str, str | None]
    sources: Sources
    free: frozenset[str]


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
    listed = _defaults_list(said, sources)
    values: dict[str, Any] = {group: plain_defaults(keys_of(cls)) for group, cls in GROUPS.items()}
    values |= {"backend": {}, "adapters": {}, **plain_defaults(root_keys())}
    origins: dict[str, str] = {}
    for default in listed.defaults:
        document = sources.document(default.config_path or "")
        if document is not None:
            _embed(values, origins, document, default)
    free = _fill_backend(values["backend"])
    choices = dict(listed.overrides.known_choices)
    return _Skeleton(values=values, origins=origins, choices=choices, sources=sources, free=free)


def _embed(values: dict[str, Any], origins: dict[str, str], document: Document, default: ResultDefault) -> None:
    """Merges one file into `values`, under its package."""
    own = {key: value for key, value in document.values.items() if key not in _HYDRA_WORDS}
    package = "" if default.package in (None, "", "_global_") else f"{default.package}."
    holder = values
    for part in package.split(".")[:-1]:
        inner = holder.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = holder[part] = {}
        holder = inner
    _merge(holder, copy.deepcopy(own))
    for key in document.lines:
        if key.partition(".")[0].partition("[")[0] not in _HYDRA_WORDS:
            origins[f"{package}{key}"] = document.where(key)


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


def _defaults_list(said: Sequence[Assignment], sources: Sources) -> DefaultsList:
    """Hydra's answer: the files to read, in the order in which they are merged."""
    hydra_version.setbase("1.3")
    try:
        return create_defaults_list(
            repo=_Repository(sources),
            config_name=ROOT,
            overrides_list=[_choice(assignment, sources) for assignment in said],
            prepend_hydra=False,
            skip_missing=False,
        )
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        _refuse_missing(group, name, sources)
        raise
    except (HydraException, OmegaConfBaseException, ValueError, AssertionError) as error:
        what = str(error).partition("\n")[0] or "the defaults lists do not fit"
        raise SpecError("spec.defaults", what, hint="see docs/configuration.md on defaults lists") from error
    except RecursionError as error:
        raise SpecError("spec.cycle", "defaults lists name each other", hint="remove one of the entries") from error


def _choice(said: Assignment, sources: Sources) -> Override:
    """The override as Hydra wants it, once it is seen to choose something that exists."""
    in_root = said.key in _root_groups(sources)
    if said.mode == "delete" or (said.value is None and in_root and said.mode == "set"):
        return assignments([f"~{said.key}"])[0].said
    if said.mode != "set" and in_root:
        what = f"{shown(said.word)}: the group {said.key} has a choice already"
        raise SpecError("override.exists", what, where=COMMAND_LINE, hint=f"write {said.word.lstrip('+')}")
    if said.mode == "set" and not in_root:
        refuse_unknown(said.word, said.key, [f"+{said.key}"])
    sources.refuse_choice(said.key, said.value, COMMAND_LINE)
    return said.said


def _root_groups(sources: Sources) -> set[str]:
    root = sources.document(ROOT)
    entries = root.values.get("defaults") or [] if root else []
    return {key for entry in entries if isinstance(entry, dict) for key in entry}


def _refuse_missing(group: str, name: str, sources: Sources) -> None:
    """A defaults list names a file that is not there: say which list does."""
    for document in sources.read.values():
        for place, entry in enumerate(document.values.get("defaults") or []):
            if name in (entry.values() if isinstance(entry, dict) else [str(entry).rpartition("/")[2]]):
                sources.refuse_choice(group, name, document.where(f"defaults[{place}]"))
    sources.refuse_choice(group, name, None)


class _Repository(ConfigRepository):
    """Hydra's view of our sources."""

    def __init__(self, sources: Sources) -> None:
        self.sources = [_Source(sources)]
        self._loaded: dict[str, ConfigResult | None] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._loaded:
            self._loaded[config_path] = super().load_config(config_path)
        return self._loaded[config_path]


class _Source(ConfigSource):
    """Hydra's port for folders of choices: it is handed the defaults list of each, the values stay with us."""

    def __init__(self, sources: Sources) -> None:
        super().__init__(provider="qeffbuild", path=f"{self.scheme()}://")
        self._sources = sources

    @staticmethod
    def scheme() -> str:
        return "checked"

    def load_config(self, config_path: str) -> ConfigResult:
        document = self._sources.document(config_path)
        assert document is not None, "Hydra asks is_config first"
        entries = _entries(document)
        config = OmegaConf.create({"defaults": entries} if entries else {})
        return ConfigResult(self.provider, self.path, config, header={"package": document.package})

    def is_group(self, config_path: str) -> bool:
        return self._sources.is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        return self._sources.find(config_path) is not None

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return self._sources.choices(config_path)


def _entries(document: Document) -> list[Any]:
    """The defaults list of a file without Hydra's own groups, once every name in it is seen to stay in its group."""
    entries = document.values.get("defaults", [])
    if not isinstance(entries, list):
        raise SpecError("spec.type", "defaults is a list", where=document.where("defaults"), hint="- GROUP: CHOICE")
    kept = []
    for place, entry in enumerate(entries):
        where = document.where(f"defaults[{place}]")
        for group, name in entry.items() if isinstance(entry, dict) else [("", entry)]:
            _check_entry(group, name, where)
            if not group.rpartition(" ")[2].removeprefix("/").startswith("hydra/"):
                kept.append({group: name} if group else name)
    return kept


def _check_entry(group: str, name: Any, where: str) -> None:
    names = [*group.split(" "), *(name if isinstance(name, list) else [name])]
    for part in names:
        if part is None or part in ("", "_self_", "???"):
            continue
        if not isinstance(part, str):
            raise SpecError(
                "spec.type", f"defaults: found {shown(part)} instead of a name", where=where, hint="- GROUP: CHOICE"
            )
        if "${" in part:
            refuse_resolvers(part, where)
            continue
        if not is_choice(part.removeprefix("/").partition("@")[0]):
            hint = "a choice is the name of a file inside its group"
            raise PathError("override.path", f"{shown(part)} is not a name inside a group", where=where, hint=hint)
