"""How a build goes on, live: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from qeffbuild.errors import StepError
from qeffbuild.executor.outcome import Outcome
from qeffbuild.executor.reporter import PlainLines, Reporter, last_lines
from qeffbuild.plan.types import Step
from qeffbuild.report.table import Look, duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def reporting(stream: TextIO | None = None) -> Iterator[Reporter]:
    """A reporter for one build; what it draws is gone when the build is over, so that a table may follow."""
    stream = stream or sys.stderr
    look = Look.of(stream)
    if look.width is None or not look.is_live:
        yield PlainLines(stream)
        return
    bars = Bars(stream, look)
    try:
        yield bars
    finally:
        bars.close()


class Bars:
    """One bar for each step that runs. Nothing is drawn, and rich is not loaded, until a step starts."""

    def __init__(self, stream: TextIO, look: Look) -> None:
        self._stream = stream
        self._look = look
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def started(self, step: Step, because: Sequence[str]) -> None:
        drawn = self._drawn()
        self._tasks[step.name] = drawn.add_task(step.name, total=1.0, what="; ".join(because))

    def progress(self, step: Step, fraction: float, what: str) -> None:
        if step.name in self._tasks:
            self._drawn().update(self._tasks[step.name], completed=fraction, what=what)

    def finished(self, outcome: Outcome) -> None:
        name = outcome.step.name
        if name in self._tasks:
            self._drawn().remove_task(self._tasks.pop(name))
        if outcome.result == "built":
            self._say(f"{self._look.paint('✓', '32')} {name:<10} {duration(outcome.seconds)}")
        if outcome.result == "failed":
            self._fail(outcome)

    def message(self, text: str) -> None:
        self._say(text)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _fail(self, outcome: Outcome) -> None:
        if isinstance(outcome.error, StepError) and outcome.log:
            for line in last_lines(outcome.log):
                self._say(self._look.paint(f"  {line}", "2"))
        self._say(f"{self._look.paint('✗', '31')} {outcome.step.name:<10} failed")

    def _say(self, line: str) -> None:
        """Above the bars, where it stays."""
        if self._progress is None:
            self._stream.write(f"{line}\n")
            self._stream.flush()
            return
        from rich.text import Text

        self._progress.console.print(Text.from_ansi(line), overflow="ellipsis", no_wrap=True, crop=True)

    def _drawn(self) -> Progress:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
            from rich.progress import TimeRemainingColumn as TimeLeft

            columns = (
                TextColumn("  {task.description:<10}"),
                BarColumn(bar_width=24, complete_style="green", finished_style="green"),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TimeLeft(compact=True),
                TextColumn("[dim]{task.fields[what]}", markup=True),
            )
            console = Console(file=self._stream, no_color=not self._look.colour, highlight=False)
            self._progress = Progress(*columns, console=console, transient=True)
            self._progress.start()
        return self._progress
