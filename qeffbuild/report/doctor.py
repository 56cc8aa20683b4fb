"""This machine -> what a build needs of it, and whether it is there."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from qeffbuild import __version__, backends
from qeffbuild.errors import QeffBuildError
from qeffbuild.report.table import size
from qeffbuild.store import disk

NEEDED = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir", "hydra-core", "omegaconf", "jinja2")
STORAGE = ("cache", "free space", "writable", "locks")  # checks without which nothing can be kept
LEAST_FREE = 2 << 30  # bytes: a small model, its graph and its package


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`ok`: True, False, or None for what is missing but not needed."""

    name: str
    ok: bool | None
    found: str
    hint: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(root: Path, versions: dict[str, str]) -> list[Check]:
    return [
        Check(name="qeffbuild", ok=True, found=f"{__version__}, Python {platform.python_version()}"),
        *_libraries(versions),
        *_machine(),
        *_cache(root),
        *_backends(),
    ]


def _libraries(versions: dict[str, str]) -> Iterator[Check]:
    for name in NEEDED:
        version = versions.get(name)
        hint = None if version else f"pip install {name}"
        yield Check(name=name, ok=version is not None, found=version or "absent", hint=hint)


def _machine() -> Iterator[Check]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    yield Check(name="machine", ok=True, found=f"{cores} cores, {size(memory)} memory, {platform.machine()}")


def _cache(root: Path) -> Iterator[Check]:
    """Permissions, space, locks and reflinks where the store is, or would be."""
    there = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    try:
        disk.check_private(root)
        yield Check(name="cache", ok=True, found=str(root))
    except FileNotFoundError:
        yield Check(name="cache", ok=True, found=f"{root} (not there yet)")
    except QeffBuildError as error:
        yield Check(name="cache", ok=False, found=error.message, hint=error.hint)
    free = shutil.disk_usage(there).free
    hint = None if free > LEAST_FREE else "qeffbuild cache gc --max-size SIZE gives space back"
    yield Check(name="free space", ok=free > LEAST_FREE, found=size(free), hint=hint)
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".qeffbuild-doctor-") as folder:
            yield Check(name="writable", ok=True, found="yes")
            yield _locks(Path(folder))
            yield _reflinks(Path(folder))
    except OSError as problem:
        said = os.strerror(problem.errno or errno.EIO).lower()
        hint = "hits still work; to build, choose cache.root=DIR"
        yield Check(name="writable", ok=False, found=f"{there}: {said}", hint=hint)


def _locks(folder: Path) -> Check:
    """Two open files must not get one lock; some network file systems give it to both."""
    with open(folder / "lock", "w") as one, open(folder / "lock") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            return Check(name="locks", ok=False, found=str(problem), hint="use a local disk")
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Check(name="locks", ok=True, found="flock works")
    return Check(name="locks", ok=False, found="flock does not exclude", hint="use a local disk")


def _reflinks(folder: Path) -> Check:
    (folder / "one").write_bytes(b"x" * 4096)
    with open(folder / "one", "rb") as one, open(folder / "two", "wb") as two:
        try:
            fcntl.ioctl(two.fileno(), disk.FICLONE, one.fileno())
        except OSError:
            return Check(name="reflinks", ok=None, found="no: packages are copied out byte by byte")
    return Check(name="reflinks", ok=True, found="copies share their blocks")


def _backends() -> Iterator[Check]:
    """Each backend may say what it finds: doctor() -> (found, hint or None), in its package."""
    for name in backends.names():
        look = getattr(import_module(backends.package_of(name)), "doctor", None)
        if look is None:
            yield Check(name=f"backend {name}", ok=True, found="needs no SDK")
            continue
        found, hint = look()
        yield Check(name=f"backend {name}", ok=None if hint else True, found=found, hint=hint)
