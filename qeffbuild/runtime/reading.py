"""What a run of a model that reads comes to: one answer for each input, figures, and both as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from qeffbuild.runtime.metrics import peak_rss_mb
from qeffbuild.spec.types import DecodingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a run is given: texts or sounds, and how tokens are chosen where some are."""

    prompts: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    decoding: DecodingSpec = field(default_factory=DecodingSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """`said` is what the document has beside its figures; `rows`, under `columns`, are for people."""

    said: Mapping[str, Any]
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    figures: Mapping[str, float | None]

    def as_json(self) -> dict[str, Any]:
        return {**self.said, "metrics": dict(self.figures)}


class Reader(Protocol):
    """A package of one task, loaded and ready."""

    load_s: float

    def answer(self, asked: Asked) -> Answers: ...


class Clock:
    """Counts what goes in while a run goes on."""

    def __init__(self) -> None:
        self.began = perf_counter()

    def elapsed(self) -> float:
        return perf_counter() - self.began

    def figures(self, load_s: float, *, answers: int, tokens: int | None = None) -> dict[str, float | None]:
        """`tokens_per_s` counts what was read; padding and idle rows never count."""
        e2e_s = self.elapsed()
        return {
            "inputs_per_s": answers / e2e_s,
            **({"tokens_per_s": tokens / e2e_s} if tokens is not None else {}),
            "e2e_s": e2e_s,
            "load_s": load_s,
            "peak_rss_mb": peak_rss_mb(),
        }
