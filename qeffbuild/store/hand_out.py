"""An entry -> a copy outside the store that its user may edit, whole or not at all."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from qeffbuild.errors import PathError, VerificationError
from qeffbuild.store import disk
from qeffbuild.store.record import Record
from qeffbuild.store.store import Entry, Store


def export_tree(store: Store, entry: Entry, destination: Path, *, replace: bool = False) -> None:
    """Copy the entry's files to `destination`, every byte verified on the way.

    A folder with the same files stays as it is; one with other files is replaced only when `replace` says so.
    """
    destination = Path(os.path.abspath(destination))
    place = sha256(os.fsencode(destination)).hexdigest()
    with store.lock(f"export-{place}", f"{destination}", say=store.say), disk.storage(destination):
        if _holds(destination, entry.record):
            return
        if not replace and _is_occupied(destination):
            raise PathError("path.exists", f"{destination} holds other files", hint="name a new folder, or remove it")
        destination.parent.mkdir(parents=True, exist_ok=True)
        _sweep(destination)
        fresh = _beside(destination, "new")
        try:
            _copy(entry, fresh)
            _swap(fresh, destination)
        finally:
            disk.remove_tree(fresh)


def _copy(entry: Entry, target: Path) -> None:
    os.mkdir(target)
    folders = {target}
    for name, file in entry.record.files.items():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        disk.copy_file(entry.out / name, copy)
        if disk.hash_file(copy) != file.sha256:
            raise VerificationError("verify.bytes", f"{name}: its bytes changed in the store", hint="build again")
        disk.sync_file(copy)
        folders.update(copy.parents[: name.count("/") + 1])
    for folder in sorted(folders, reverse=True):
        disk.sync_file(folder)


def _swap(fresh: Path, destination: Path) -> None:
    """Two renames: between them the name is free, but it never names half a folder."""
    aside = _beside(destination, "old")
    if os.path.lexists(destination):
        os.rename(destination, aside)
    os.rename(fresh, destination)
    disk.sync_file(destination.parent)
    disk.remove_tree(aside)


def _holds(destination: Path, record: Record) -> bool:
    """Whether exactly these files are there already."""
    try:
        found = {name for name, _ in disk.walk_files(destination)}
        return found == record.files.keys() and all(
            disk.hash_file(destination / name) == file.sha256 for name, file in record.files.items()
        )
    except OSError:
        return False


def _is_occupied(destination: Path) -> bool:
    """Whether something would be lost; folders without a file in them are nothing."""
    if not destination.is_dir() or destination.is_symlink():
        return os.path.lexists(destination)
    return any(path.is_symlink() or not path.is_dir() for path in destination.rglob("*"))


def _beside(destination: Path, what: str) -> Path:
    return destination.with_name(f".{destination.name}.qeffbuild-{what}")


def _sweep(destination: Path) -> None:
    """What an interrupted copy left; we hold the lock, so nobody is at it."""
    for what in ("new", "old"):
        disk.remove_tree(_beside(destination, what))
