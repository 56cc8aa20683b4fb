"""Who hears how a run goes. Calls come from several threads, one at a time."""

from __future__ import annotations

import sys
from _thread import allocate_lock
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TextIO

from qeffbuild.errors import StepError
from qeffbuild.executor.outcome import Outcome
from qeffbuild.plan.types import Step

LAST_LINES = 10


class Reporter(Protocol):
    def started(self, step: Step, because: Sequence[str]) -> None:
        """A step begins to run, and why."""

    def progress(self, step: Step, fraction: float, what: str) -> None:
        """How far a running step is (0..1) and what it is doing."""

    def finished(self, outcome: Outcome) -> None:
        """A step was built, found, failed or skipped."""

    def message(self, text: str) -> None:
        """One line about the run as a whole."""


class Silent:
    """Hears nothing."""

    def started(self, step: Step, because: Sequence[str]) -> None: ...

    def progress(self, step: Step, fraction: float, what: str) -> None: ...

    def finished(self, outcome: Outcome) -> None: ...

    def message(self, text: str) -> None: ...


class InTurn:
    """Passes calls from several threads on, one at a time."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._turn = allocate_lock()

    def started(self, step: Step, because: Sequence[str]) -> None:
        with self._turn:
            self._reporter.started(step, because)

    def progress(self, step: Step, fraction: float, what: str) -> None:
        with self._turn:
            self._reporter.progress(step, fraction, what)

    def finished(self, outcome: Outcome) -> None:
        with self._turn:
            self._reporter.finished(outcome)

    def message(self, text: str) -> None:
        with self._turn:
            self._reporter.message(text)


class PlainLines:
    """One line for each event on stderr; what a step found up to date is not worth one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def started(self, step: Step, because: Sequence[str]) -> None:
        self.message(f"{step.name}: {'; '.join(because)}")

    def progress(self, step: Step, fraction: float, what: str) -> None:
        """Lines cannot be overwritten: the log has the details."""

    def finished(self, outcome: Outcome) -> None:
        if outcome.result == "hit":
            return
        if outcome.result == "failed":
            self._failed(outcome)
            return
        if outcome.result == "built":
            self.message(f"{outcome.step.name}: built in {outcome.seconds:.1f} s, peak {outcome.peak_rss_mb} MB")
            return
        self.message(f"{outcome.step.name}: {outcome.result}: {'; '.join(outcome.because)}")

    def message(self, text: str) -> None:
        with suppress(OSError):  # nobody listens any more: the build goes on
            self._stream.write(text + "\n")
            self._stream.flush()

    def _failed(self, outcome: Outcome) -> None:
        if isinstance(outcome.error, StepError) and outcome.log:
            for line in last_lines(outcome.log):
                self.message(f"{outcome.step.name} | {line}")
        self.message(f"{outcome.step.name}: failed")


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """The end of a log, however long it is."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 64 * 1024))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
