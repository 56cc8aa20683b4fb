"""Runs wanted steps as soon as what they need is there: so many at a time, each in its own worker."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

from qeffbuild.errors import Interrupted
from qeffbuild.executor.look import Look
from qeffbuild.executor.once import Room, bring
from qeffbuild.executor.outcome import Outcome
from qeffbuild.executor.process import Worker
from qeffbuild.plan.merge import Merged, Node
from qeffbuild.store import Entry

GOODBYE_S = 1.5  # for threads to end after an interruption; what they leave is swept by the next run


def run_wanted(graph: Merged, look: Look, room: Room, *, jobs: int, keep_going: bool) -> dict[str, Outcome]:
    """An outcome for each wanted step."""
    with _interruptible(), _crew(room, min(jobs, len(look.wanted))) as crew:
        return _drive(graph, look, room, crew, keep_going)


def _drive(graph: Merged, look: Look, room: Room, crew: _Crew, keep_going: bool) -> dict[str, Outcome]:
    entries = dict(look.entries)
    waiting = dict.fromkeys(look.wanted)
    done: dict[str, Outcome] = {}
    running = 0
    first_failure: Outcome | None = None

    def settle(digest: str, outcome: Outcome) -> None:
        done[digest] = outcome
        if outcome.entry:
            entries[digest] = outcome.entry
        room.reporter.finished(outcome)

    while waiting or running:
        for digest in list(waiting):
            if running == crew.size:
                break
            node = graph.nodes[digest]
            if blocker := _blocker(node, done) or (None if keep_going else first_failure):
                del waiting[digest]
                settle(digest, _skipped(node, blocker))
            elif _is_ready(node, entries):
                del waiting[digest]
                running += 1
                crew.give(node, {role: entries[name] for role, name in node.inputs.items()})
        if not running:
            assert not waiting, "a plan lists steps after what they need"
            break
        digest, outcome = crew.take()
        running -= 1
        settle(digest, outcome)
        if outcome.result == "failed":
            first_failure = first_failure or outcome
    return done


def _is_ready(node: Node, entries: Mapping[str, Entry]) -> bool:
    has_inputs = all(name in entries for name in node.inputs.values())
    return has_inputs and any(all(name in entries for name in alternative) for alternative in node.after)


def _blocker(node: Node, done: Mapping[str, Outcome]) -> Outcome | None:
    """The failed or skipped step without which this one cannot run."""
    bad = {digest: outcome for digest, outcome in done.items() if not outcome.is_good}
    if not bad:
        return None
    for name in node.inputs.values():
        if name in bad:
            return bad[name]
    blocked = [next((name for name in sorted(alternative) if name in bad), None) for alternative in node.after]
    return bad[blocked[0]] if blocked[0] and all(blocked) else None


def _skipped(node: Node, blocker: Outcome) -> Outcome:
    return Outcome(
        step=node.step,
        key=node.key,
        result="skipped",
        because=(f"{blocker.step.name} {'failed' if blocker.result == 'failed' else 'was skipped'}",),
        variants=node.variants,
    )


class _Crew:
    """Threads with a worker each. Tasks go in, outcomes come out."""

    def __init__(self, room: Room, size: int) -> None:
        self.size = size
        self._room = room
        self._tasks: SimpleQueue[tuple[Node, Mapping[str, Entry]] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[str, Outcome | BaseException]] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(size)]
        for thread in self._threads:
            thread.start()

    def give(self, node: Node, inputs: Mapping[str, Entry]) -> None:
        self._tasks.put((node, inputs))

    def take(self) -> tuple[str, Outcome]:
        digest, result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return digest, result

    def dismiss(self) -> None:
        self._room.stop.set()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(GOODBYE_S)

    def _work(self) -> None:
        worker = Worker()
        try:
            while task := self._tasks.get():
                node, inputs = task
                self._results.put((node.key.digest, self._bring(node, inputs, worker)))
        finally:
            worker.stop()

    def _bring(self, node: Node, inputs: Mapping[str, Entry], worker: Worker) -> Outcome | BaseException:
        try:
            return bring(node, inputs, self._room, worker)
        except BaseException as problem:
            return problem


@contextmanager
def _crew(room: Room, size: int) -> Iterator[_Crew]:
    crew = _Crew(room, size)
    try:
        yield crew
    finally:
        crew.dismiss()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the signals that ask us to end into one error, so that everything is put away on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted("interrupted", f"interrupted by {signal.Signals(number).name}")

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
