"""One step run twice, from the same inputs -> the files that came out different."""

from __future__ import annotations

from collections.abc import Mapping

from qeffbuild.executor.once import Room, run_action
from qeffbuild.executor.process import Worker
from qeffbuild.plan.merge import Node
from qeffbuild.store import Entry, disk


def run_twice(node: Node, inputs: Mapping[str, Entry], room: Room) -> tuple[str, ...]:
    """Names of files that differ or exist only once; empty when the step is reproducible. Nothing is published.

    Each run has a fresh process, so that what one leaves in memory cannot make the other agree.
    """
    first = _digests(node, inputs, room)
    second = _digests(node, inputs, room)
    return tuple(sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name)))


def _digests(node: Node, inputs: Mapping[str, Entry], room: Room) -> dict[str, str]:
    worker = Worker()
    try:
        with room.store.staging() as staging:
            run_action(node.step, inputs, staging, room, worker)
            return {name: disk.hash_file(entry.path) for name, entry in disk.walk_files(staging.out)}
    finally:
        worker.stop()
