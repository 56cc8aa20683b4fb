"""Key -> finished folder: find, publish, lock, verify, collect."""

from qeffbuild.store.record import File, Record
from qeffbuild.store.store import Entry, Store

__all__ = ["Entry", "File", "Record", "Store"]
