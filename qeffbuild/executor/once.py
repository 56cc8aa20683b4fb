"""One step: found, cut off, or run in staging and published."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qeffbuild.errors import Interrupted, QeffBuildError, StepError
from qeffbuild.executor import worker as child
from qeffbuild.executor.look import found
from qeffbuild.executor.outcome import Outcome
from qeffbuild.executor.process import Worker, revive
from qeffbuild.executor.reporter import Reporter
from qeffbuild.plan.keys import Key, World, shallow_key
from qeffbuild.plan.merge import Node
from qeffbuild.plan.types import Leaf, Step
from qeffbuild.store import Entry, Record, Store
from qeffbuild.store.disk import storage_error
from qeffbuild.store.staging import Staging


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What all steps of a run share."""

    store: Store
    world: World
    reporter: Reporter
    timeout_s: float
    memory_mb: int | None
    locate: str | None  # "module:function" that turns a leaf's path into a file or folder; None: it is one
    in_process: Collection[str]  # actions so light that they need no process of their own
    stop: threading.Event = field(default_factory=threading.Event)
    in_process_turn: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        if self.stop.is_set():
            raise Interrupted("interrupted", "stopped")


@dataclass(frozen=True, slots=True)
class Run:
    """The cost of one run of an action."""

    seconds: float
    peak_rss_mb: int


def bring(node: Node, inputs: Mapping[str, Entry], room: Room, worker: Worker) -> Outcome:
    """Have the node's result in the store, by whichever way is shortest. A failure is an outcome, too."""
    try:
        return _bring(node, inputs, room, worker)
    except Interrupted:
        raise
    except QeffBuildError as error:
        return _failure(node, room.store, error)
    except OSError as problem:
        return _failure(node, room.store, storage_error(problem, room.store.root))


def _bring(node: Node, inputs: Mapping[str, Entry], room: Room, worker: Worker) -> Outcome:
    store, step, deep = room.store, node.step, node.key
    with store.lock(deep.digest, step.name, say=room.reporter.message, check=room.check):
        if entry := store.find(deep.digest, holding=True):
            return found(node, entry, "hit", ("built meanwhile by another process",))
        shallow = shallow_key(deep, _contents(step, inputs))
        with store.lock(shallow.digest, step.name, say=room.reporter.message, check=room.check):
            if entry := store.find(shallow.digest):
                store.alias(deep.digest, entry.record.key)
                return found(node, entry, "cutoff", ("its inputs were rebuilt to the same bytes",))
            because = store.why(step, deep)
            room.reporter.started(step, because)
            with store.staging() as staging:
                return _build(node, shallow, inputs, staging, because, room, worker)


def _build(
    node: Node,
    shallow: Key,
    inputs: Mapping[str, Entry],
    staging: Staging,
    because: tuple[str, ...],
    room: Room,
    worker: Worker,
) -> Outcome:
    step, store = node.step, room.store
    try:
        run = run_action(step, inputs, staging, room, worker)
        unchanged(step, node.key, room.world)
        record = Record(
            key=node.key.digest,
            shallow=shallow.digest,
            name=step.name,
            preimage=node.key.preimage,
            files={},
            inputs=tuple(node.inputs.values()),
            leaf_files=store.leaf_files(node.key),
            seconds=run.seconds,
            peak_rss_mb=run.peak_rss_mb,
        )
        entry = store.publish(staging, record)
    except BaseException:
        _keep_log(staging, store.log_path(step.name, node.key.digest))
        raise
    return Outcome(
        step=step,
        key=node.key,
        result="built",
        because=because,
        seconds=run.seconds,
        peak_rss_mb=run.peak_rss_mb,
        log=entry.log,
        entry=entry,
        variants=node.variants,
    )


def run_action(step: Step, inputs: Mapping[str, Entry], staging: Staging, room: Room, worker: Worker) -> Run:
    """Let the action fill `staging.out`."""
    request = {
        "name": step.name,
        "action": step.action,
        "params": dict(step.params),
        "inputs": {role: str(entry.out.absolute()) for role, entry in inputs.items()},
        "leaves": {leaf.name: place(leaf) for leaf in step.leaves},
        "locate": room.locate,
        "out": str(staging.out.absolute()),
        "cwd": str(staging.cwd.absolute()),
        "log": str(staging.log.absolute()),
        "root": str(room.store.root),
    }
    start = time.monotonic()

    def progress(fraction: float, what: str) -> None:
        room.reporter.progress(step, fraction, what)

    if step.action in room.in_process:
        with room.in_process_turn:
            _run_here(request, staging.log, progress)
        return Run(time.monotonic() - start, 0)
    if step.isolated:
        worker.stop()
    try:
        peak = worker.run(
            request, timeout_s=room.timeout_s, memory_mb=room.memory_mb, progress=progress, check=room.check
        )
    finally:
        if step.isolated:
            worker.stop()
    return Run(time.monotonic() - start, peak)


def place(leaf: Leaf) -> str:
    """A path that holds in another working folder; a reference such as hub:ORG/NAME stays as it is."""
    scheme, colon, _ = leaf.path.partition(":")
    return leaf.path if colon and scheme.isalpha() else os.path.abspath(leaf.path)


def unchanged(step: Step, key: Key, world: World) -> None:
    """What was digested for the key must be what the action has read."""
    for leaf in step.leaves:
        try:
            is_same = world.leaf(leaf) == key.preimage["leaves"][leaf.name]
        except OSError:
            is_same = False  # it is gone
        if not is_same:
            raise StepError("step.changed", f"{step.name}: {leaf.path} changed while it was read", hint="build again")
    for module in (step.action, *step.code):
        if world.code(module) != key.preimage["code"][module]:
            raise StepError("step.changed", f"{step.name}: the code of {module} changed meanwhile", hint="build again")


def _run_here(request: Mapping[str, Any], log: Path, progress: Callable[[float, str], None]) -> None:
    with open(log, "a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            child.run_action(json.loads(json.dumps(request)), progress)
        except Exception as problem:
            raise revive(child.describe(problem, request)) from problem


def _contents(step: Step, inputs: Mapping[str, Entry]) -> dict[str, str]:
    return {role: entry.record.content(step.narrow.get(role)) for role, entry in inputs.items()}


def _keep_log(staging: Staging, place: Path) -> None:
    with suppress(OSError):
        if staging.log.exists():
            os.replace(staging.log, place)


def _failure(node: Node, store: Store, error: QeffBuildError) -> Outcome:
    log = store.log_path(node.step.name, node.key.digest)
    has_log = log.exists() and log.stat().st_size > 0
    if has_log and error.where is None and isinstance(error, StepError):
        error.where = str(log)
    return Outcome(
        step=node.step,
        key=node.key,
        result="failed",
        because=(error.message,),
        log=log if has_log else None,
        error=error,
        variants=node.variants,
    )
