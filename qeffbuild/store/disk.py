"""What the store asks of a file system: durable names, private folders, copies that share blocks, one-line errors."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path

from qeffbuild.errors import StoreError

FICLONE = 0x40049409  # linux/fs.h: share the blocks of one file with another (btrfs, xfs, ...)
COPY_CHUNK = 1 << 20

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def storage(root: Path) -> Iterator[None]:
    """Turn what the disk says into one line that names the store."""
    try:
        yield
    except OSError as problem:
        raise storage_error(problem, root) from problem


def storage_error(problem: OSError, root: Path) -> StoreError:
    said = os.strerror(problem.errno) if problem.errno else str(problem)
    place = f"{root}: {said.lower()}"
    if problem.errno in _FULL:
        return StoreError("cache.full", place, hint="free some space, or run: qeffbuild cache gc --max-size SIZE")
    if problem.errno in _READ_ONLY:
        return StoreError("cache.readonly", place, hint="what is missing cannot be built here: choose cache.root=DIR")
    return StoreError("cache.io", place, where=_named(problem), hint="look at the disk, or choose cache.root=DIR")


def _named(problem: OSError) -> str | None:
    return os.fsdecode(problem.filename) if isinstance(problem.filename, str | bytes) else None


def private_folder(path: Path) -> None:
    """Make a folder that nobody else may enter; refuse one that others own or may write."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkdir(path, 0o700)
    check_private(path)


def check_private(path: Path) -> None:
    status = os.stat(path)
    if status.st_uid != os.geteuid():
        raise StoreError("cache.unsafe", f"{path} belongs to another user", hint="choose your own: cache.root=DIR")
    if status.st_mode & 0o022:
        raise StoreError("cache.unsafe", f"{path} may be written by others", hint=f"chmod go-w {path}")


def stamp(status: os.stat_result) -> tuple[int, int, int, int, int]:
    """What changes when a file's bytes do."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def hash_file(path: Path | str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file_digest(file, "sha256").hexdigest()


def sync_file(path: Path | str) -> None:
    """The bytes, or for a folder the names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(path: Path, data: bytes) -> None:
    """A new file; whoever holds the name already is not followed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)


def copy_file(source: Path, target: Path) -> None:
    """Share the blocks where the file system can, else copy the bytes; through a link one could edit both."""
    with open(source, "rb") as reader, open(target, "xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
        except OSError as refused:
            if refused.errno in _FULL or refused.errno == errno.EIO:
                raise
            while chunk := reader.read(COPY_CHUNK):
                writer.write(chunk)


def remove_tree(path: Path) -> None:
    """Remove a folder, read-only ones inside it included; what is gone already is fine."""
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    with suppress(FileNotFoundError):
        os.chmod(path, 0o700)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
            continue
        with suppress(FileNotFoundError):
            os.unlink(entry.path)
    with suppress(FileNotFoundError):
        os.rmdir(path)


def walk_files(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below `folder` as (relative name, entry), in the order of names; links are not followed."""
    yield from _walk(str(folder), "")


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry
