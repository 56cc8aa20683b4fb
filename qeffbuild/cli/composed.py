"""Composed configurations, kept so that a build with nothing to do never loads Hydra.

An entry is filed under all that composition reads: the overrides, every file of every configuration folder and of our
own schema (by stat), and the versions of the tools that compose. It is a cache only: whatever is missing, damaged or
unwritable means that Hydra composes again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from qeffbuild import paths
from qeffbuild.world import distributions

SCHEMA = 1
ENTRIES = 1024  # kept; beyond it the least recently written go
# A file that changed this short ago may change again without a new time stamp, as git knows of its index.
RACY_NS = 2_000_000_000


class Composed:
    """The entries of one cache root, as seen from one working folder."""

    def __init__(self, root: Path, cwd: Path) -> None:
        self._folder = root / "v1" / "compose"
        self._stamp, self._newest = _surroundings(cwd)

    def load(self, overrides: Sequence[str], *, sweep: bool = False) -> Any | None:
        """What was kept for these overrides, or None."""
        try:
            digest, _, text = self._path(overrides, sweep).read_text(encoding="utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            return None
        return json.loads(text)

    def keep(self, overrides: Sequence[str], composed: Any, *, sweep: bool = False) -> None:
        if time.time_ns() - self._newest < RACY_NS:
            return
        path = self._path(overrides, sweep)
        text = json.dumps(composed, ensure_ascii=False)
        staged = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _collect(path.parent)
            staged.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
            staged.replace(path)
        except (OSError, UnicodeEncodeError):
            staged.unlink(missing_ok=True)

    def _path(self, overrides: Sequence[str], sweep: bool) -> Path:
        said = json.dumps([SCHEMA, sweep, list(overrides), self._stamp])
        return self._folder / f"{hashlib.sha256(said.encode()).hexdigest()}.json"


def _surroundings(cwd: Path) -> tuple[list[Any], int]:
    """All besides the overrides that composition reads, and the youngest time stamp among it."""
    folders = [*paths.user_conf_dirs(cwd), paths.resource_dir("conf"), paths.HERE / "spec", paths.HERE / "backends"]
    stamps = [list(stamp) for folder in folders for stamp in _stamps(str(folder))]
    tools = sorted(f"{name}-{version}" for name, version in distributions().items() if name.startswith(("hydra", "omegaconf")))
    return [[str(folder) for folder in folders], tools, stamps], max((stamp[-1] for stamp in stamps), default=0)


def _stamps(folder: str) -> Iterator[tuple[str, int, int, int]]:
    """Path, size and times of the files below `folder` that configuration can come from."""
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from _stamps(entry.path)
        elif entry.name.endswith((".yaml", ".yml", ".py")):
            seen = entry.stat()
            yield entry.path, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _entries(folder: str) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _collect(folder: Path) -> None:
    entries = list(_entries(str(folder)))
    if len(entries) < ENTRIES:
        return
    oldest = sorted(entries, key=lambda entry: entry.stat().st_mtime_ns)[: ENTRIES // 2]
    for entry in oldest:
        Path(entry.path).unlink(missing_ok=True)
