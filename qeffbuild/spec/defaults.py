"""Chosen words -> the files that make up a configuration, in the order in which Hydra's defaults lists merge them.

Hydra's parts that are used here are internal, but have kept their form since Hydra 1.1; tests/spec compares with its
public compose function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import version as hydra_version
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qeffbuild.errors import PathError, SpecError
from qeffbuild.spec.assign import refuse_unknown
from qeffbuild.spec.documents import Document
from qeffbuild.spec.grammar import COMMAND_LINE, Assignment, assignments
from qeffbuild.spec.references import variables
from qeffbuild.spec.sources import Sources
from qeffbuild.spec.text import as_hint, is_choice, shown

ROOT = "build"


@dataclass(frozen=True, slots=True)
class Part:
    """One file, and the dotted key under which its values belong ("" is the root)."""

    document: Document
    package: str


@dataclass(frozen=True, slots=True)
class Listed:
    """The files in the order in which they are merged, and what was chosen from each group."""

    parts: tuple[Part, ...]
    choices: Mapping[str, str | None]


def list_parts(said: Sequence[Assignment], sources: Sources) -> Listed:
    """What the words in `said`, each of which names a group, make of the root's defaults list."""
    listed = _defaults_list(said, sources)
    parts = []
    for default in listed.defaults:
        document = sources.document(default.config_path or "")
        assert document is not None, "Hydra has loaded it"
        _check_hydra(document, sources)
        package = default.package or ""
        parts.append(Part(document, "" if package == "_global_" else package))
    return Listed(tuple(parts), dict(listed.overrides.known_choices))


def _defaults_list(said: Sequence[Assignment], sources: Sources) -> DefaultsList:
    """Hydra's answer."""
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
        raise SpecError(
            "override.exists",
            what,
            where=COMMAND_LINE,
            hint=as_hint(f"write {said.word.lstrip('+')}", "leave out the +"),
        )
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


def _check_hydra(document: Document, sources: Sources) -> None:
    """Only our own root says how Hydra behaves."""
    said = document.values.get("hydra")
    if said is None or sources.is_packaged(document):
        return
    where = document.where("hydra")
    if isinstance(said, dict) and {"run", "sweep", "output_subdir"} & set(said):
        hint = "out=DIR says where results go"
        raise PathError("path.outside", "hydra: its folders are the program's own", where=where, hint=hint)
    if isinstance(said, dict) and "searchpath" in said:
        hint = "put your files in ./conf or ~/.config/qeffbuild/conf"
        raise PathError(
            "override.path", "hydra.searchpath: the search path is the program's own", where=where, hint=hint
        )
    hint = "hydra.sweeper and hydra.launcher are set on the command line"
    raise SpecError("spec.forbidden", "hydra: not set in a file", where=where, hint=hint)


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
        entries = _entries(document, self._sources)
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


def _entries(document: Document, sources: Sources) -> list[Any]:
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
            elif not sources.is_packaged(document):
                hint = f"choose it on the command line: {group.rpartition(' ')[2].removeprefix('/')}={name}"
                raise SpecError("spec.forbidden", "a file cannot choose Hydra's own parts", where=where, hint=hint)
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
            variables(part, where)
            continue
        if not is_choice(part.removeprefix("/").partition("@")[0]):
            hint = "a choice is the name of a file inside its group"
            raise PathError("override.path", f"{shown(part)} is not a name inside a group", where=where, hint=hint)
