"""What became of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from qeffbuild.errors import QeffBuildError
from qeffbuild.plan.keys import Key
from qeffbuild.plan.types import Step
from qeffbuild.store import Entry

Result = Literal["built", "hit", "cutoff", "failed", "skipped"]


class Outcome(NamedTuple):
    """`entry` is what the store has; it is None after a failure, and of a hit that nobody needed to look at.

    `variants` are the plans, by position, that wanted the step.
    """

    step: Step
    key: Key
    result: Result
    because: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_rss_mb: int = 0
    log: Path | None = None
    entry: Entry | None = None
    error: QeffBuildError | None = None
    variants: tuple[int, ...] = (0,)

    @property
    def out(self) -> Path | None:
        """The finished folder, to be read only."""
        return self.entry.out if self.entry else None

    @property
    def is_good(self) -> bool:
        return self.result in ("built", "hit", "cutoff")

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "name": self.step.name,
            "result": self.result,
            "because": list(self.because),
            "seconds": round(self.seconds, 3),
            "peak_rss_mb": self.peak_rss_mb,
            "log": str(self.log) if self.log else None,
        }
        return said | {"error": self.error.as_json()} if self.error else said
