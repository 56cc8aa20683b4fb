"""The same prompts again and again -> median, least and most of each latency figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from statistics import median
from typing import Any

from qeffbuild.runtime.engine import Engine, Prompt
from qeffbuild.runtime.metrics import Metrics
from qeffbuild.spec.types import DecodingSpec


def bench(
    engine: Engine, prompts: Prompt | Sequence[Prompt], decoding: DecodingSpec, *, runs: int = 5
) -> dict[str, dict[str, Any]]:
    """Each figure's {"median", "min", "max", "runs"} over `runs` runs, after one that warms up and is not counted.

    load_s is of the one load that they share; a figure that no run has (no decode turn) is null.
    """
    engine.generate(prompts, decoding)
    measured = [engine.generate(prompts, decoding).metrics for _ in range(runs)]
    return {figure.name: _spread([getattr(metrics, figure.name) for metrics in measured]) for figure in fields(Metrics)}


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if not known:
        return {"median": None, "min": None, "max": None, "runs": len(values)}
    return {"median": median(known), "min": min(known), "max": max(known), "runs": len(values)}
