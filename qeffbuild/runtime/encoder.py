"""Texts -> one result for each, from a graph that reads texts whole: batches, padding, the smallest fitting length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qeffbuild.errors import RunError
from qeffbuild.package import Package
from qeffbuild.runtime.session import Session
from qeffbuild.runtime.tokenizer import Tokenizer
from qeffbuild.spec.for_task import input_lengths
from qeffbuild.spec.types import SpecializationSpec

GRAPH, MASK = "encoder", "attention_mask"
PAIR = "\t"  # between a first and a second text: a question and a passage


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """How many rows run together, and the lengths that were built, ascending."""

    rows: int
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, package: Package) -> Shapes:
        said = package.specialization
        spec = SpecializationSpec(ctx_len=said["ctx_len"], seq_len=tuple(said.get("seq_len") or ()))
        return cls(rows=said["batch_size"], lengths=input_lengths(spec, package.task))

    def fitting(self, length: int) -> int:
        return next(built for built in self.lengths if built >= length)


@dataclass(frozen=True, slots=True)
class Row:
    """One text as the graph takes it."""

    token_ids: tuple[int, ...]
    type_ids: tuple[int, ...]


class Encoder:
    """A package's graph of this kind. What it makes of each row comes in the order of the rows."""

    def __init__(self, session: Session, shapes: Shapes, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.session, self.shapes, self.tokenizer, self.vocab_size = session, shapes, tokenizer, vocab_size
        self.names = {tensor.name for tensor in session.signature(GRAPH).inputs}
        # Where padding would change what comes of a text there is no mask, and texts go one by one.
        self.rows_at_once = shapes.rows if MASK in self.names else 1
        self.states = session.allocate(GRAPH, self.rows_at_once, 0)

    def rows(self, texts: Sequence[str]) -> list[Row]:
        """Token ids of each text; all are checked before anything runs."""
        if not texts:
            raise RunError("run.prompt", "there is no prompt", hint='give one: prompts=["Hi there!!"]')
        return [self._row(text, place) for place, text in enumerate(texts)]

    def run(self, rows: Sequence[Row]) -> Iterator[np.ndarray]:
        """The graph's first output for each row; what belongs to padding is still in it."""
        (output, *_) = self.session.signature(GRAPH).outputs
        for start in range(0, len(rows), self.rows_at_once):
            batch = rows[start : start + self.rows_at_once]
            made = self.session.run(GRAPH, self._feed(batch), self.states)[output.name]
            yield from np.array(made[: len(batch)])

    def _feed(self, batch: Sequence[Row]) -> dict[str, np.ndarray]:
        longest = max(len(row.token_ids) for row in batch)
        width = longest if self.session.any_length else self.shapes.fitting(longest)
        feed = {name: np.zeros((self.rows_at_once, width), np.int64) for name in self.names}
        for place, row in enumerate(batch):
            count = len(row.token_ids)
            feed["input_ids"][place, :count] = row.token_ids
            if MASK in feed:
                feed[MASK][place, :count] = 1
            if "token_type_ids" in feed:
                feed["token_type_ids"][place, :count] = row.type_ids
        if MASK in feed:
            feed[MASK][len(batch) :, 0] = 1  # rows that stand idle see something, so that nothing is NaN
        return feed

    def _row(self, text: str, place: int) -> Row:
        if not text:
            raise RunError("run.prompt", f"prompt {place + 1} is empty", hint="give some text")
        first, _, second = text.partition(PAIR)
        row = Row(*map(tuple, self.tokenizer.encode_pair(first, second or None)))
        count, longest = len(row.token_ids), self.shapes.lengths[-1]
        if count > longest:
            raise RunError(
                "run.prompt",
                f"prompt {place + 1} has {count} tokens, but the longest length of this package is {longest}",
                hint=f"shorten it, or build with specialization.seq_len=[{longest},{count}]",
            )
        if not count or max(row.token_ids) >= self.vocab_size:
            raise RunError("run.prompt", f"prompt {place + 1} is no tokens of this model", hint="give some other text")
        return row
