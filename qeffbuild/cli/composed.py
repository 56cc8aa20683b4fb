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

from qeffbuild.cli import places
from qeffbuild.report.installed import distributions

TYPE_CHECKING = False  # typing's own would load typing
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

SCHEMA = 1
ENTRIES = 1024  # kept; beyond it the older half goes
# A file that changed this short ago may change again without a new time stamp, as git knows of its index.
RACY_NS = 2_000_000_000
TOOLS = ("hydra-core", "omegaconf", "pyyaml")


class Kept:
    """The entries of one cache root, as seen from the working folder. `what` keeps kinds of entries apart."""

    def __init__(self, root: str) -> None:
        self._home = os.path.join(root, "v1")
        folders = [*places.conf_folders(), f"{places.PACKAGE}/spec", f"{places.PACKAGE}/backends"]
        stamps = [stamp for folder in folders for stamp in _stamps(folder)]
        tools = [f"{name}-{distributions().get(name)}" for name in TOOLS]
        self._surroundings = [folders, tools, stamps]
        self._newest = max((max(stamp[2:]) for stamp in stamps), default=0)

    def load(self, what: str, words: Sequence[str]) -> dict[str, Any] | None:
        """What was kept for these words, or None."""
        try:
            with open(self._path(what, words), encoding="utf-8") as file:
                digest, _, text = file.read().partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            return None
        said: dict[str, Any] = json.loads(text)
        if any(os.environ.get(name) != value for name, value in said.get("environment", {}).items()):
            return None
        return said

    def keep(self, what: str, words: Sequence[str], said: dict[str, Any]) -> None:
        """Only where there is a store already: to look at a plan creates no folders."""
        if not os.path.isdir(self._home) or time.time_ns() - self._newest < RACY_NS:
            return
        path = self._path(what, words)
        staged = f"{path}.{os.getpid()}"
        text = json.dumps(said, ensure_ascii=False)
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            _collect(os.path.dirname(path))
            with open(staged, "w", encoding="utf-8") as file:
                file.write(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
            os.replace(staged, path)
        except (OSError, UnicodeEncodeError):
            if os.path.exists(staged):
                os.unlink(staged)

    def _path(self, what: str, words: Sequence[str]) -> str:
        said = json.dumps([SCHEMA, what, list(words), self._surroundings])
        return f"{self._home}/compose/{hashlib.sha256(said.encode()).hexdigest()}.json"


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


def _collect(folder: str) -> None:
    entries = _entries(folder)
    if len(entries) < ENTRIES:
        return
    for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime_ns)[: ENTRIES // 2]:
        os.unlink(entry.path)
