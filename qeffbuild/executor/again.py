"""A finished step, run once more from the same inputs -> the files that came out different."""

from __future__ import annotations

from collections.abc import Mapping

from qeffbuild.executor.once import Room, run_action
from qeffbuild.executor.process import Worker
from qeffbuild.plan.types import Step
from qeffbuild.store import Entry, disk


def run_again(step: Step, inputs: Mapping[str, Entry], once: Entry, room: Room) -> tuple[str, ...]:
    """Names of files that differ from those in `once` or are not in both; empty when the step is reproducible.

    Nothing is published. The run has a fresh process, so that what the first left in memory cannot make it agree.
    """
    worker = Worker()
    try:
        with room.store.staging() as staging:
            run_action(step, inputs, staging, room, worker)
            again = {name: disk.hash_file(entry.path) for name, entry in disk.walk_files(staging.out)}
    finally:
        worker.stop()
    first = {name: file.sha256 for name, file in once.record.files.items()}
    return tuple(sorted(name for name in first.keys() | again.keys() if first.get(name) != again.get(name)))
