"""Merged plans + store -> which results are there, and which steps must run. Nothing below a hit is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from qeffbuild.executor.outcome import Outcome, Result
from qeffbuild.plan.merge import Merged, Node
from qeffbuild.store import Entry, Store


class Look(NamedTuple):
    """Entries by deep digest, and the digests of the steps to run, each after those it reads."""

    entries: Mapping[str, Entry]
    wanted: tuple[str, ...]


def look_up(graph: Merged, store: Store, *, touch: bool = True) -> Look:
    """From the roots down to the first hits."""
    entries: dict[str, Entry] = {}
    missing: set[str] = set()
    stack = list(graph.roots())
    while stack:
        digest = stack.pop()
        if digest in entries or digest in missing:
            continue
        if entry := store.find(digest, touch=touch):
            entries[digest] = entry
            continue
        missing.add(digest)
        stack += graph.nodes[digest].inputs.values()
    return Look(entries, tuple(digest for digest in graph.nodes if digest in missing))


def found(node: Node, entry: Entry, result: Result, because: tuple[str, ...] = ("up to date",)) -> Outcome:
    """The outcome of a step whose result was there."""
    return Outcome(
        step=node.step,
        key=node.key,
        result=result,
        because=because,
        log=entry.log,
        entry=entry,
        variants=node.variants,
    )
