"""Composed configurations, kept so that a build with nothing to do never loads Hydra.

An entry is filed under all that composition reads: the overrides, every file of every configuration folder and of our
own schema (by stat), and the versions of the tools that compose; the environment variables that it read are compared
when it is found. It is a cache only: whatever is missing, damaged or unwritable means that Hydra composes again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qeffbuild import paths
from qeffbuild.world import distributions

SCHEMA = 1
ENTRIES = 1024  # kept; beyond it the older half goes
# A file that changed this short ago may change again without a new time stamp, as git knows of its index.
RACY_NS = 2_000_000_000

Said = dict[str, Any]


class Kept:
    """The entries of one cache root, as seen from one working folder. `what` keeps kinds of entries apart."""

    def __init__(self, root: Path, cwd: Path) -> None:
        self._home = root / "v1"
        folders = [*paths.user_conf_dirs(cwd), paths.resource_dir("conf"), paths.HERE / "spec", paths.HERE / "backends"]
        stamps = [stamp for folder in folders for stamp in _stamps(str(folder))]
        tools = [f"{name}-{version}" for name, version in sorted(distributions().items()) if name in TOOLS]
        self._surroundings = [[str(folder) for folder in folders], tools, stamps]
        self._newest = max((stamp[-1] for stamp in stamps), default=0)

    def load(self, what: str, words: Sequence[str]) -> Said | None:
        """What was kept for these words, or None."""
        try:
            digest, _, text = self._path(what, words).read_text(encoding="utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            return None
        said = json.loads(text)
        if any(os.environ.get(name) != value for name, value in said.get("environment", {}).items()):
            return None
        return said

    def keep(self, what: str, words: Sequence[str], said: Said) -> None:
        """Only where there is a store already: to look at a plan creates no folders."""
        if not self._home.is_dir() or time.time_ns() - self._newest < RACY_NS:
            return
        path = self._path(what, words)
        staged = path.with_suffix(f".{os.getpid()}.tmp")
        text = json.dumps(said, ensure_ascii=False)
        try:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            _collect(path.parent)
            staged.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
            staged.replace(path)
        except (OSError, UnicodeEncodeError):
            staged.unlink(missing_ok=True)

    def _path(self, what: str, words: Sequence[str]) -> Path:
        said = json.dumps([SCHEMA, what, list(words), self._surroundings])
        return self._home / "compose" / f"{hashlib.sha256(said.encode()).hexdigest()}.json"


TOOLS = ("hydra-core", "omegaconf", "pyyaml")


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


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _collect(folder: Path) -> None:
    entries = _entries(str(folder))
    if len(entries) < ENTRIES:
        return
    for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime_ns)[: ENTRIES // 2]:
        Path(entry.path).unlink(missing_ok=True)
