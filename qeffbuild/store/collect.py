"""Housekeeping: list what a store holds, verify every byte, give space back beside running builds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from qeffbuild.errors import VerificationError
from qeffbuild.store import disk, verify
from qeffbuild.store.lock import is_held, try_lock, turn
from qeffbuild.store.record import Damaged, unseal
from qeffbuild.store.staging import sweep
from qeffbuild.store.store import Store

LOG_KEPT_S = 7 * 86400  # logs of failures
_UNFINISHED_S = 3600.0  # who began to write a name so long ago has died


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An entry as `ls` shows it. `used` is when a build last needed it, in seconds since the epoch."""

    key: str
    name: str
    size: int
    used: float
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection did."""

    removed: tuple[str, ...]
    freed: int
    kept: int


def ls(store: Store) -> list[Listed]:
    """Every entry with a sound record, the longest unused first."""
    found = []
    for key, place in store.places():
        record = store.peek(key)
        if record is None:
            continue
        with suppress(FileNotFoundError):
            used = os.stat(place / "record.json").st_mtime
            found.append(Listed(key=key, name=record.name, size=record.size, used=used, inputs=record.inputs))
    return sorted(found, key=lambda item: (item.used, item.key))


def du(store: Store) -> dict[str, int]:
    """Bytes on disk by part of the store."""
    used = {}
    for part in ("entry", "quarantine", "staging", "log"):
        with suppress(FileNotFoundError):
            used[part] = sum(
                entry.stat(follow_symlinks=False).st_size for _, entry in disk.walk_files(store.home / part)
            )
    return used


def verify_all(store: Store, keys: Iterable[str] | None = None) -> list[VerificationError]:
    """Hash every file of every entry, or of those named; what is wrong is returned, and left as it is."""
    chosen = list(keys) if keys is not None else [key for key, _ in store.places()]
    return [error for key in chosen if (error := _verify(store, key))]


def pin(store: Store, name: str, key: str) -> None:
    """Keep the entry of `key`, and what it was made from, through collections that keep roots."""
    with disk.storage(store.root):
        folder = store.prepared() / "root"
        disk.private_folder(folder)
        fresh = folder / f".{os.urandom(8).hex()}"
        disk.write_private(fresh, key.encode())
        os.rename(fresh, folder / name)


def gc(
    store: Store,
    *,
    max_size: int | None = None,
    older_s: float | None = None,
    keep_roots: bool = False,
    dry_run: bool = False,
) -> Collected:
    """Remove entries until the rest fits `max_size` bytes, and those unused for `older_s`; the longest unused first.

    Without either, only rubbish goes. Entries that a running build has touched stay, whatever the limits say.
    """
    if not store.home.is_dir():
        return Collected(removed=(), freed=0, kept=0)
    with disk.storage(store.root), _alone(store):
        if not dry_run:
            _remove_rubbish(store)
        listed = ls(store)
        spared = _roots(store, listed) if keep_roots else set()
        removed = []
        freed, size = 0, sum(item.size for item in listed)
        for item in listed:
            is_old = older_s is not None and item.used < time.time() - older_s
            is_much = max_size is not None and size > max_size
            if item.key in spared or not (is_old or is_much):
                continue
            if _is_in_use(store, item.key) or not (dry_run or _remove(store, item.key)):
                continue
            removed.append(item.key)
            freed, size = freed + item.size, size - item.size
        if not dry_run:
            _remove_dangling(store)
        return Collected(removed=tuple(removed), freed=freed, kept=len(listed) - len(removed))


def _verify(store: Store, key: str) -> VerificationError | None:
    place = store.entry_path(key)
    record = store.peek(key)
    hint = "the next build that needs it builds it again"
    if record is None:
        return VerificationError("verify.record", f"{key[:12]}: its record is damaged", where=str(place), hint=hint)
    try:
        verify.check_files(place / "out", record, store.index, always=True)
    except (Damaged, OSError) as damage:
        message = f"{record.name} {key[:12]}: {damage}"
        return VerificationError("verify.bytes", message, where=str(place), hint=hint)
    return None


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """One collector at a time."""
    with store.lock("gc", "the collector", say=store.say):
        yield


def _roots(store: Store, listed: Iterable[Listed]) -> set[str]:
    """The pinned entries and all that they were made from."""
    inputs = {item.key: item.inputs for item in listed}
    found: set[str] = set()
    with suppress(FileNotFoundError):
        stack = [path.read_text() for path in (store.home / "root").iterdir()]
        while stack:
            key = stack.pop()
            if key not in found:
                found.add(key)
                target = store.alias_target(key)
                stack += [*inputs.get(key, ()), *([target] if target else [])]
    return found


def _is_in_use(store: Store, key: str) -> bool:
    """Being built just now, or needed by a build that still runs."""
    return is_held(store.home / "lock" / key) or _is_touched(store, key)


def _is_touched(store: Store, key: str) -> bool:
    """Since the oldest build that still runs began."""
    began = _oldest_session(store)
    return began is not None and _used(store, key) >= began


def _oldest_session(store: Store) -> float | None:
    began = []
    for path in (store.home / "session").iterdir():
        with suppress(FileNotFoundError):  # it ended meanwhile
            if is_held(path):
                began.append(path.stat().st_mtime)
    return min(began, default=None)


def _used(store: Store, key: str) -> float:
    try:
        return os.stat(store.entry_path(key) / "record.json").st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(store: Store, key: str) -> bool:
    """Nobody can touch the entry between the last look at it and the moment when it is out of everybody's sight."""
    descriptor = try_lock(store.home / "lock" / key)
    if descriptor is None:
        return False
    try:
        aside = store.home / "quarantine" / f"gc-{key}"
        with turn(store.turn, shared=False):
            if _is_touched(store, key):
                return False
            os.rename(store.entry_path(key), aside)
        disk.remove_tree(aside)
        store.index.drop_entry(key)
        return True
    except FileNotFoundError:
        return False  # it was damaged, and its finder was first
    finally:
        os.close(descriptor)


def _remove_rubbish(store: Store) -> None:
    """What dead processes and damage left."""
    sweep(store.home / "staging")
    for path in (store.home / "quarantine").iterdir():
        disk.remove_tree(path)
    for path in (store.home / "log").iterdir():
        if path.stat().st_mtime < time.time() - LOG_KEPT_S:
            path.unlink(missing_ok=True)
    for folder in ("lock", "session"):
        for path in (store.home / folder).iterdir():
            _remove_free(path)


def _remove_free(path: Path) -> None:
    """A lock file that nobody holds; who opens it at this moment notices that it is gone and makes a new one."""
    if is_held(path):
        return
    descriptor = try_lock(path)
    if descriptor is None:
        return
    path.unlink(missing_ok=True)
    os.close(descriptor)


def _remove_dangling(store: Store) -> None:
    for _, entry in disk.walk_files(store.home / "alias"):
        path = Path(entry.path)
        if _is_being_written(path):
            continue
        try:
            target = unseal(path.read_bytes())["target"]
        except (Damaged, OSError):
            target = None
        if target is None or not store.entry_path(target).exists():
            path.unlink(missing_ok=True)


def _is_being_written(alias: Path) -> bool:
    """An alias has a name of its own until it is whole, and is then renamed to its key."""
    try:
        return bool(alias.suffix) and alias.stat().st_mtime > time.time() - _UNFINISHED_S
    except FileNotFoundError:
        return True  # it was renamed just now
