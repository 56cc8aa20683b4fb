"""The outside that keys depend on: digests of leaves and of our own sources, versions of tools, the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from qeffbuild.paths import HERE
from qeffbuild.plan.types import Leaf
from qeffbuild.report.installed import distributions, normal
from qeffbuild.spec.types import ModelSpec
from qeffbuild.store import Store

HUB = "hub:"
ABSENT = "absent"
LOCATE = "qeffbuild.world:locate"  # how a worker finds the folder of a leaf


class LocalWorld:
    """This machine, looked at anew by every call; the store knows the digest of a file by its stamp."""

    def __init__(self, store: Store, models: Iterable[ModelSpec], environ: Mapping[str, str] = os.environ) -> None:
        self._store = store
        self._environ = environ
        # All that was looked at, so that an answer can be kept for as long as it is the same.
        self.files: set[str] = set()
        self.tools: set[str] = set()
        self.variables: set[str] = set()
        # Which files of a model folder count depends on what its spec allows to be read.
        self._flags: dict[str, dict[str, bool]] = {}
        for model in models:
            flags = self._flags.setdefault(model.path or "", {"trust_remote_code": False, "allow_pickle": False})
            flags["trust_remote_code"] |= model.trust_remote_code
            flags["allow_pickle"] |= model.allow_pickle

    def leaf(self, leaf: Leaf) -> str:
        """A pinned hub commit is named by itself; all else by the names and bytes of its files.

        What is not there counts as absent: the step that reads it says so, and says it better.
        """
        if is_pinned(leaf.path):
            return sha256(leaf.path.encode()).hexdigest()
        place = locate(leaf.path)
        if place.is_dir():
            return self._folder(place, self._names(leaf, place))
        if not place.is_file():
            self.files.add(str(place.absolute()))
            return ABSENT
        return self._file(place)

    def code(self, module: str) -> str:
        """All sources of a package, or the one of a module, by their relative names; a shelf may be empty."""
        source = _source(module)
        if source is None:
            self.files.add(str(HERE))
            return ABSENT
        if source.is_file():
            return self._file(source)
        return self._folder(source, [name for name in _files(source) if name.endswith(".py")])

    def tool(self, distribution: str) -> str:
        self.tools.add(normal(distribution))
        return distributions().get(normal(distribution), ABSENT)

    def env(self, name: str) -> str | None:
        self.variables.add(name)
        return self._environ.get(name)

    def _file(self, path: Path) -> str:
        self.files.add(str(path.absolute()))
        return self._store.digest_file(path)

    def _folder(self, folder: Path, names: Iterable[str]) -> str:
        listed = list(names)
        for name in listed:
            file = (folder / name).absolute()
            self.files |= {str(file), str(file.parent)}
        return self._store.digest_folder(folder, listed)

    def _names(self, leaf: Leaf, folder: Path) -> Iterable[str]:
        if leaf.name != "model":
            return _files(folder)
        from qeffbuild.models.files import listing

        return listing(folder, **self._flags.get(leaf.path, {}))


class Snapshot:
    """A world asked once for each thing, for as long as many plans are keyed together."""

    def __init__(self, world: LocalWorld) -> None:
        self.leaf = cache(world.leaf)
        self.code = cache(world.code)
        self.tool = cache(world.tool)
        self.env = cache(world.env)


def is_pinned(path: str) -> bool:
    """hub:ORG/NAME@COMMIT, whose bytes cannot change."""
    name, _, commit = path.partition("@")
    return name.startswith(HUB) and len(commit) == 40 and set(commit) <= set("0123456789abcdef")


def locate(path: str) -> Path:
    """The file or folder of a leaf; a hub model lies in the hub's cache."""
    if not path.startswith(HUB):
        return Path(path)
    from qeffbuild import models

    return models.locate(path)


def _files(folder: Path, prefix: str = "") -> Iterator[str]:
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if not entry.is_dir():
            yield prefix + entry.name
        elif entry.name != "__pycache__":
            yield from _files(Path(entry.path), f"{prefix}{entry.name}/")


@cache
def _source(module: str) -> Path | None:
    """Where the source of a module lies; ours are found without importing anything."""
    first, *rest = module.split(".")
    if first == __package__:
        folder = HERE.joinpath(*rest)
        return next((place for place in (folder.with_suffix(".py"), folder) if place.exists()), None)
    from importlib.util import find_spec

    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        return None
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent if found.submodule_search_locations else Path(found.origin)
