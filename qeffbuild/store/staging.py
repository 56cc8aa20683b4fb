"""Private folders on the store's own disk in which a step may write before anything is visible.

Each has a lock beside it for as long as its process lives; a folder whose lock is free is rubbish and is swept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from qeffbuild.store import disk
from qeffbuild.store.lock import try_lock


class Staging(NamedTuple):
    """`entry` becomes the store's entry; `cwd` is the working folder of whatever runs, thrown away afterwards."""

    path: Path

    @property
    def entry(self) -> Path:
        return self.path / "entry"

    @property
    def out(self) -> Path:
        return self.path / "entry" / "out"

    @property
    def log(self) -> Path:
        return self.path / "entry" / "log"

    @property
    def cwd(self) -> Path:
        return self.path / "cwd"


@contextmanager
def staged(folder: Path) -> Iterator[Staging]:
    """A fresh staging folder; gone afterwards, whatever happened."""
    path, descriptor = _begin(folder)
    staging = Staging(path)
    try:
        for made in (staging.path, staging.entry, staging.out, staging.cwd):
            os.mkdir(made, 0o700)
        yield staging
    finally:
        with suppress(OSError):  # what cannot be removed now is swept later
            disk.remove_tree(path)
            os.unlink(_lock_of(path))
        os.close(descriptor)


def sweep(folder: Path) -> int:
    """Remove what dead processes left; how many folders that were."""
    swept = 0
    for lock in sorted(folder.glob("*.lock")):
        swept += _sweep_one(lock)
    for path in sorted(folder.iterdir()):
        if path.suffix != ".lock" and not _lock_of(path).exists():
            disk.remove_tree(path)
            swept += 1
    return swept


def _sweep_one(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    os.close(descriptor)
    held = try_lock(lock)
    if held is None:
        return False
    try:
        disk.remove_tree(lock.with_suffix(""))
        with suppress(FileNotFoundError):
            os.unlink(lock)
    finally:
        os.close(held)
    return True


def _begin(folder: Path) -> tuple[Path, int]:
    """The lock comes before the folder, so that no folder is ever without an owner."""
    while True:
        path = folder / os.urandom(8).hex()
        descriptor = try_lock(_lock_of(path))
        if descriptor is not None:
            return path, descriptor


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")
