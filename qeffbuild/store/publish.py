"""A staged folder -> a complete, durable, read-only entry under its final name, or nothing."""

from __future__ import annotations

import os
import stat
from hashlib import file_digest
from pathlib import Path

from qeffbuild.errors import StepError
from qeffbuild.store import disk
from qeffbuild.store.index import SETTLED, Index
from qeffbuild.store.record import File, Record, encode
from qeffbuild.store.staging import Staging
from qeffbuild.store.verify import ALWAYS_HASHED


def seal_output(name: str, out: Path, index: Index) -> dict[str, File]:
    """Hash every file of `out`, make it durable and read-only; refuse what a store cannot keep."""
    files: dict[str, File] = {}
    folders = {out}
    for relative, entry in disk.walk_files(out):
        _check_kind(name, relative, entry)
        files[relative] = _seal_file(Path(entry.path), index)
        folders.update(Path(entry.path).parents[: relative.count("/") + 1])
    if not files:
        raise StepError("step.output", f"{name} ended without writing a file", hint="look at its log")
    for folder in sorted(folders, reverse=True):
        disk.sync_file(folder)
        os.chmod(folder, 0o555)
    return files


def write_record(staging: Staging, record: Record) -> None:
    """The record is written last, next to the files that it vouches for."""
    disk.write_private(staging.entry / "record.json", encode(record))
    disk.sync_file(staging.entry / "record.json")
    if staging.log.exists():
        os.chmod(staging.log, 0o444)
    disk.sync_file(staging.entry)


def move_into_place(staging: Staging, place: Path) -> None:
    """One rename makes the entry visible, whole."""
    shelf = place.parent
    if not shelf.is_dir():
        os.makedirs(shelf, mode=0o700, exist_ok=True)
        disk.sync_file(shelf.parent)
    os.rename(staging.entry, place)
    disk.sync_file(shelf)


def _check_kind(name: str, relative: str, entry: os.DirEntry[str]) -> None:
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise StepError("step.output", f"{name} wrote {relative}, which is not a plain file")
    if status.st_nlink > 1:
        raise StepError("step.output", f"{name} linked {relative} to a file outside its folder", hint="copy it")


def _seal_file(path: Path, index: Index) -> File:
    with open(path, "rb", buffering=0) as file:
        os.fchmod(file.fileno(), 0o444)
        digest = file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        status = os.fstat(file.fileno())
    if status.st_size > ALWAYS_HASHED:
        index.remember_digest(status, digest, SETTLED)
    return File(size=status.st_size, sha256=digest)
