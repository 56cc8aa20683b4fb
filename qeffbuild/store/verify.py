"""Whether an entry's files are what its record says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from qeffbuild.store import disk
from qeffbuild.store.index import SETTLED, Index
from qeffbuild.store.record import Damaged, File, Record

ALWAYS_HASHED = 64 << 20  # bytes; larger files are hashed again when their stamp changed


def check_files(out: Path, record: Record, index: Index, *, always: bool) -> None:
    """Raise Damaged on the first file that is missing, too many, or different."""
    try:
        found = {name for name, _ in disk.walk_files(out)}
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise Damaged("its output folder is missing") from problem
    if found != record.files.keys():
        odd = sorted(found ^ record.files.keys())[0]
        raise Damaged(f"{odd} is {'unknown' if odd in found else 'missing'}")
    for name, file in record.files.items():
        _check_file(out / name, name, file, index, always)


def _check_file(path: Path, name: str, said: File, index: Index, always: bool) -> None:
    status = os.stat(path, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise Damaged(f"{name} is not a file")
    if status.st_size != said.size:
        raise Damaged(f"{name} has {status.st_size} bytes instead of {said.size}")
    is_large = said.size > ALWAYS_HASHED
    if is_large and not always and index.digest_of(status) == said.sha256:
        return
    if disk.hash_file(path) != said.sha256:
        raise Damaged(f"the bytes of {name} changed")
    if is_large:
        index.remember_digest(status, said.sha256, SETTLED)
