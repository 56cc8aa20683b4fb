"""A store -> what it holds, how much that is, whether it is sound; and less of it."""

from __future__ import annotations

from typing import Any

from qeffbuild.store import Store


def cache_ls(store: Store) -> dict[str, Any]:
    """Every entry, the longest unused first."""
    from qeffbuild.store.collect import ls

    entries = [
        {
            "key": item.key,
            "step": item.name,
            "bytes": item.size,
            "used": item.used,
            "inputs": list(item.inputs),
            "path": str(store.entry_path(item.key)),
        }
        for item in ls(store)
    ]
    return {"schema": 1, "root": str(store.root), "entries": entries}


def cache_du(store: Store) -> dict[str, Any]:
    """Bytes by step and by part of the store."""
    from qeffbuild.store.collect import du, ls

    steps: dict[str, dict[str, Any]] = {}
    for item in ls(store):
        row = steps.setdefault(item.name, {"step": item.name, "entries": 0, "bytes": 0})
        row["entries"] += 1
        row["bytes"] += item.size
    parts = du(store)
    return {
        "schema": 1,
        "root": str(store.root),
        "bytes": sum(parts.values()),
        "parts": parts,
        "steps": [*steps.values()],
    }


def cache_gc(
    store: Store, *, max_size: int | None, older_s: float | None, keep_roots: bool, dry_run: bool
) -> dict[str, Any]:
    """Give space back: nothing that a running build uses."""
    from qeffbuild.store.collect import gc

    done = gc(store, max_size=max_size, older_s=older_s, keep_roots=keep_roots, dry_run=dry_run)
    said = {"removed": list(done.removed), "freed": done.freed, "kept": done.kept, "dry_run": dry_run}
    return {"schema": 1, "root": str(store.root), **said}


def cache_verify(store: Store) -> dict[str, Any]:
    """Every byte of every entry; what is damaged is listed and left as it is."""
    from qeffbuild.store.collect import verify_all

    keys = [key for key, _ in store.places()]
    errors = [error.as_json() for error in verify_all(store, keys)]
    return {"schema": 1, "root": str(store.root), "entries": len(keys), "damaged": errors}
