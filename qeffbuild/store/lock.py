"""Kernel locks: one builder per key, and a sign of life for each process that uses the store.

flock belongs to an open file and is gone with its process, however that ends, so there is nothing to clean up and no
stale lock. The text in a lock file says who holds it; it is shown to those who wait and never decides anything.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WAIT_MESSAGE_AFTER_S = 2.0
POLL_S = (0.005, 0.1)  # first and longest pause between two tries

Say = Callable[[str], None]


def silent(message: str) -> None:
    """Nobody listens."""


@contextmanager
def locked(path: Path, what: str, *, say: Say = silent, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock at `path`; `check` is called while waiting, and raises to give up."""
    descriptor = _acquire(path, what, say, check)
    try:
        with suppress(OSError):  # full disk: who waits learns less, nothing else
            os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """An open descriptor that holds the lock, or None when someone else does. Closing it unlocks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_still(descriptor, path):
            return descriptor
        os.close(descriptor)  # swept between open and flock: the name is free or someone else's


@contextmanager
def turn(path: Path, *, shared: bool) -> Iterator[None]:
    """Wait for the lock at `path`, a file that nobody removes and nobody holds for longer than a moment."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _acquire(path: Path, what: str, say: Say, check: Callable[[], None]) -> int:
    start = time.monotonic()
    pause, longest = POLL_S
    said = False
    while (descriptor := try_lock(path)) is None:
        check()
        if not said and time.monotonic() - start > WAIT_MESSAGE_AFTER_S:
            said = True
            say(f"waiting for {what}, which {_holder(path)} is building")
        time.sleep(pause)
        pause = min(pause * 1.5, longest)
    return descriptor


def _holder(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return lines[0] if lines else "another process"


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)
