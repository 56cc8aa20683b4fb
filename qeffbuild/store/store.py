"""Key -> finished folder. An entry is shown whole and verified, or not at all.

ROOT/v1/entry/ab/KEY/{record.json,out/,log}   finished steps
ROOT/v1/alias/ab/KEY                          another key of the same entry (a shallow key; a cut-off)
ROOT/v1/staging/RANDOM/                       work in progress; swept when its lock is free
ROOT/v1/lock/KEY                              flock, gone with its process
ROOT/v1/turn                                  flock: shared by those who touch entries, the collector's own
ROOT/v1/log/NAME-KEY12.log                    logs of steps that failed
ROOT/v1/index.sqlite                          a disposable index
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from qeffbuild.errors import StoreError
from qeffbuild.plan.explain import NEVER_BUILT, distance, explain
from qeffbuild.plan.keys import Key, Preimage, canonical
from qeffbuild.plan.types import Step
from qeffbuild.store import disk, verify
from qeffbuild.store.index import Index, Row
from qeffbuild.store.lock import Say, locked, silent, try_lock, turn
from qeffbuild.store.record import SCHEMA, Damaged, Record, decode, seal, unseal

if TYPE_CHECKING:
    from qeffbuild.store.staging import Staging

CONSIDERED = 20  # latest entries of a step name among which the nearest is looked for


class Entry(NamedTuple):
    """A finished step as it was found, verified."""

    path: Path
    record: Record

    @property
    def out(self) -> Path:
        return self.path / "out"

    @property
    def log(self) -> Path:
        return self.path / "log"


class Store:
    """One cache root. Making a Store touches nothing; a root that does not exist has no entries."""

    def __init__(self, root: Path, *, verify: Literal["auto", "always"] = "auto", say: Say = silent) -> None:
        self.root = root
        self.home = root / "v1"
        self.turn = self.home / "turn"
        self.index = Index(self.home / "index.sqlite")
        self.say = say
        self._always = verify == "always"
        self._is_checked = False
        self._is_prepared = False
        self._session: tuple[Path, int] | None = None
        self._damaged: set[str] = set()  # dropped by this process
        self._folders: dict[str, dict[str, str]] = {}
        self._unremembered: list[tuple[os.stat_result, str, int]] = []  # hashed before there was a store

    # -- looking up ---------------------------------------------------------------------------------------------------

    def entry_path(self, key: str) -> Path:
        return self.home / "entry" / key[:2] / key

    def alias_path(self, key: str) -> Path:
        return self.home / "alias" / key[:2] / key

    def find(self, key: str, *, touch: bool = True, holding: bool = False) -> Entry | None:
        """The verified entry filed under `key`, directly or by an alias; what is damaged is dropped and said.

        `touch` marks it as in use, for the collector; `holding` says that the caller holds the key's lock.
        """
        with disk.storage(self.root):
            if not self._check_root():
                return None
            if entry := self._load(key, touch, holding):
                return entry
            target = self.alias_target(key)
            return self._load(target, touch, False) if target else None

    def peek(self, key: str) -> Record | None:
        """The record alone, its files unverified: enough to explain, never enough to use."""
        try:
            record = decode((self.entry_path(key) / "record.json").read_bytes())
        except (OSError, Damaged):
            return None
        return record if record.key == key else None

    def nearest(self, name: str, preimage: Preimage) -> Record | None:
        """The earlier entry of that step name and action which differs least."""
        records = [
            record for record in self._records_named(name) if record.preimage.get("action") == preimage.get("action")
        ]
        return min(records, key=lambda record: distance(record.preimage, preimage), default=None)

    def why(self, step: Step, key: Key) -> tuple[str, ...]:
        """What differs between `key` and the nearest earlier result, in the user's words."""
        if key.digest in self._damaged:
            return ("its result was damaged",)
        record = self.nearest(step.name, key.preimage)
        if record is None:
            return (NEVER_BUILT,)
        return explain(step, record.preimage, key.preimage, record.leaf_files, self.leaf_files(key))

    def leaf_files(self, key: Key) -> dict[str, Mapping[str, str]]:
        """The files of each leaf folder that `key` names, as far as this process digested them."""
        leaves = key.preimage["leaves"]
        return {name: self._folders[digest] for name, digest in leaves.items() if digest in self._folders}

    def _records_named(self, name: str) -> list[Record]:
        if not self.home.is_dir():
            return []
        self.fill_index()
        found = [self.peek(key) for key in self.index.keys_named(name, CONSIDERED)]
        return [record for record in found if record is not None]

    def _load(self, key: str, touch: bool, holding: bool) -> Entry | None:
        place = self.entry_path(key)
        if touch and not self._touch(place):
            return None
        try:
            return self._verified(key, place)
        except FileNotFoundError:
            if not os.path.lexists(place):
                return None
            self._drop(key, "its record is missing", holding)
        except Damaged as damage:
            self._drop(key, str(damage), holding)
        return None

    def _verified(self, key: str, place: Path) -> Entry:
        with open(place / "record.json", "rb", buffering=0) as file:
            record = decode(file.read())
        if record.key != key:
            raise Damaged("it is the record of another key")
        verify.check_files(place / "out", record, self.index, always=self._always)
        return Entry(place, record)

    def _touch(self, place: Path) -> bool:
        """False when there is no such entry. The collector spares what was touched since the oldest session began.

        It looks and takes away in one turn, so that nothing is touched in between and gone nevertheless.
        """
        self._begin_session()
        try:
            with turn(self.turn, shared=True):
                os.utime(place / "record.json")
        except FileNotFoundError:
            return os.path.lexists(place)
        except OSError:
            return True  # read-only: nobody can collect it either
        return True

    def _drop(self, key: str, why: str, holding: bool) -> None:
        """Move a damaged entry aside, unless someone is building it anew just now."""
        descriptor = None
        with suppress(OSError):  # a read-only store cannot be mended: the entry is simply not used
            if not holding:
                descriptor = try_lock(self.prepared() / "lock" / key)
                if descriptor is None:
                    return
            self._quarantine(key, why)
        if descriptor is not None:
            os.close(descriptor)

    def _quarantine(self, key: str, why: str) -> None:
        place = self.entry_path(key)
        try:
            self._verified(key, place)
        except (Damaged, OSError):
            aside = self.home / "quarantine" / f"{key[:12]}-{os.urandom(4).hex()}"
            os.rename(place, aside)
            self.index.drop_entry(key)
            self._damaged.add(key)
            self.say(f"cache: 1 damaged entry dropped ({key[:12]}: {why})")

    # -- adding -------------------------------------------------------------------------------------------------------

    def lock(
        self, key: str, what: str, *, say: Say = silent, check: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[None]:
        """Hold the right to build `key`; others wait, and hear of it after two seconds."""
        with disk.storage(self.root):
            return self._guarded(locked(self.prepared() / "lock" / key, what, say=say, check=check))

    def staging(self) -> AbstractContextManager[Staging]:
        """A private folder to build in, on the store's own disk."""
        from qeffbuild.store.staging import staged

        with disk.storage(self.root):
            return self._guarded(staged(self.prepared() / "staging"))

    def publish(self, staging: Staging, record: Record) -> Entry:
        """Show the staged entry under `record.key`. `record.files` is filled in here, from what is on disk.

        A good entry that is there already stays: the bytes behind a key never change.
        """
        from qeffbuild.store import publish  # not needed by a build with nothing to do

        with disk.storage(self.root):
            files = publish.seal_output(record.name, staging.out, self.index)
            record = replace(record, files=files)
            publish.write_record(staging, record)
            place = self.entry_path(record.key)
            if os.path.lexists(place):
                self._quarantine(record.key, "it was found damaged")
            if not os.path.lexists(place):
                publish.move_into_place(staging, place)
            entry = self._verified(record.key, place)
            self.alias(record.shallow, record.key)
        self.index.add_entry(Row(record.key, record.name, record.size, time.time_ns()))
        return entry

    def alias(self, key: str, target: str) -> None:
        """File the entry of `target` under another key, too. Lost or damaged, it is only a miss: it needs no fsync."""
        with disk.storage(self.root):
            place = self.alias_path(key)
            os.makedirs(place.parent, mode=0o700, exist_ok=True)
            fresh = place.with_name(f"{key}.{os.urandom(4).hex()}")
            try:
                disk.write_private(fresh, seal({"schema": SCHEMA, "key": key, "target": target}))
                os.rename(fresh, place)
            except BaseException:
                with suppress(OSError):
                    os.unlink(fresh)
                raise

    def log_path(self, name: str, key: str) -> Path:
        """Where the log of a step that failed is kept."""
        plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
        return self.home / "log" / f"{plain}-{key[:12]}.log"

    def alias_target(self, key: str) -> str | None:
        """The key of the entry that `key` is an alias of."""
        try:
            said = unseal(self.alias_path(key).read_bytes())
        except FileNotFoundError:
            return None
        except Damaged:
            self.say(f"cache: 1 damaged alias ignored ({key[:12]})")
            return None
        return said["target"] if said.get("key") == key else None

    @contextmanager
    def _guarded(self, inner: AbstractContextManager) -> Iterator:
        with disk.storage(self.root):
            value = inner.__enter__()
        try:
            yield value
        finally:
            with disk.storage(self.root):
                inner.__exit__(None, None, None)

    # -- files outside ------------------------------------------------------------------------------------------------

    def digest_file(self, path: Path) -> str:
        """The sha256 of a file; read again only when its stamp changed."""
        before, hashed_at = os.stat(path), time.time_ns()
        has_index = self._check_root()
        if known := self.index.digest_of(before) if has_index else None:
            return known
        digest = disk.hash_file(path)
        if disk.stamp(os.stat(path)) != disk.stamp(before):
            return digest  # it changes under our eyes: the step that reads it will say so
        if has_index:
            self.index.remember_digest(before, digest, hashed_at)
        else:
            self._unremembered.append((before, digest, hashed_at))
        return digest

    def digest_files(self, folder: Path, names: Iterable[str]) -> dict[str, str]:
        return {name: self.digest_file(folder / name) for name in sorted(names)}

    def digest_folder(self, folder: Path, names: Iterable[str]) -> str:
        """One digest for the named files of a folder: their names and bytes, not where the folder lies."""
        files = self.digest_files(folder, names)
        digest = sha256(canonical(files)).hexdigest()
        self._folders[digest] = files
        return digest

    # -- the house ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self.index.close()
        if self._session is not None:
            path, descriptor = self._session
            with suppress(OSError):
                os.unlink(path)
            os.close(descriptor)
            self._session = None

    def __del__(self) -> None:
        """As a file does: who forgets to close it, or uses entries for as long as it lives, need not care."""
        self.close()

    def fill_index(self) -> None:
        """Enter what is on disk, once in the life of an index file."""
        if self.index.is_filled():
            return
        rows = []
        for key, place in self.places():
            if record := self.peek(key):
                rows.append(Row(key, record.name, record.size, os.stat(place / "record.json").st_mtime_ns))
        self.index.fill(rows)

    def places(self) -> Iterator[tuple[str, Path]]:
        """Key and folder of every entry on disk, sound or not."""
        with suppress(FileNotFoundError):
            for shelf in sorted((self.home / "entry").iterdir()):
                for place in sorted(shelf.iterdir()):
                    yield place.name, place

    def _check_root(self) -> bool:
        """False when there is no store yet."""
        if self._is_checked:
            return True
        try:
            disk.check_private(self.root)
            disk.check_private(self.home)
        except FileNotFoundError:
            return False
        except NotADirectoryError as problem:
            raise StoreError("cache.unsafe", f"{self.root} is not a folder", hint="choose cache.root=DIR") from problem
        self._is_checked = True
        return True

    def prepared(self) -> Path:
        """The store's folder, with its parts made and swept."""
        if not self._is_prepared:
            disk.private_folder(self.root)
            disk.private_folder(self.home)
            for name in ("entry", "alias", "staging", "lock", "log", "quarantine", "session"):
                disk.private_folder(self.home / name)
            self._sweep()
            self._is_prepared = self._is_checked = True
            for hashed in self._unremembered:
                self.index.remember_digest(*hashed)
        return self.home

    def _sweep(self) -> None:
        """What cannot be removed now is removed another time."""
        with suppress(OSError):
            if any((self.home / "staging").iterdir()):
                from qeffbuild.store.staging import sweep

                sweep(self.home / "staging")

    def _begin_session(self) -> None:
        """A locked file for as long as this process uses entries: they are safe from the collector."""
        if self._session is not None:
            return
        with suppress(OSError):
            path = self.prepared() / "session" / os.urandom(8).hex()
            descriptor = try_lock(path)
            self._session = (path, descriptor) if descriptor is not None else None
