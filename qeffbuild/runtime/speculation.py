"""Drafts of the next tokens, which one run of the target verifies: looked up in the text so far, or a smaller model's.

A draft only proposes. The target chooses each token from its own logits, so the answers are those without a draft, by
whatever rule tokens are chosen; a draft that guessed right saves runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from qeffbuild.errors import RunError
from qeffbuild.package import Package
from qeffbuild.runtime.request import Limits
from qeffbuild.runtime.scheduler import Answer, Row
from qeffbuild.runtime.session import Session, open_session
from qeffbuild.runtime.state import State
from qeffbuild.spec.types import DecodingSpec


class Drafter(Protocol):
    """Whoever proposes."""

    def propose(self, answers: Sequence[Answer], most: Sequence[int]) -> list[list[int]]:
        """For each answer what may come next, `most` tokens or fewer."""


@dataclass(slots=True)
class _Seen:
    """Where the text of one answer has each run of tokens: the place behind its last appearance."""

    last: dict[tuple[int, ...], int] = field(default_factory=dict)
    upto: int = 0

    def read(self, token_ids: Sequence[int], longest: int) -> None:
        """Takes in the runs that end before the last token: those that end with it are what is looked for."""
        for end in range(max(1, self.upto), len(token_ids)):
            for size in range(1, min(longest, end) + 1):
                self.last[tuple(token_ids[end - size : end])] = end
        self.upto = len(token_ids)


class PromptLookup:
    """Proposes what followed the last time that the text had its present end, the longest end that it had before."""

    def __init__(self, max_ngram_size: int) -> None:
        self._longest = max_ngram_size
        self._seen: dict[int, _Seen] = {}

    def propose(self, answers: Sequence[Answer], most: Sequence[int]) -> list[list[int]]:
        self._seen = {
            answer.request.id: self._seen.get(answer.request.id) or _Seen() for answer in answers
        }  # those that are over are forgotten
        return [self._look_up(answer, count) for answer, count in zip(answers, most, strict=True)]

    def _look_up(self, answer: Answer, most: int) -> list[int]:
        token_ids, seen = answer.token_ids, self._seen[answer.request.id]
        seen.read(token_ids, self._longest)
        for size in range(min(self._longest, len(token_ids) - 1), 0, -1):
            if (place := seen.last.get(tuple(token_ids[-size:]))) is not None:
                # A text that repeats itself is thought to go on so, beyond its end.
                text = token_ids[place:]
                return [text[number % len(text)] for number in range(most)]
        return []


class DraftModel:
    """Proposes the likeliest tokens of a smaller model, which keeps a cache of its own."""

    def __init__(self, session: Session, limits: Limits, longest: int | None) -> None:
        self.state = State(session, limits)
        self._limits = limits
        self._longest = longest or limits.ctx_len  # positions that the model has
        self._fed: list[list[int]] = [[] for _ in range(limits.slots)]  # what the cache of each slot holds
        self._kept: list[list[int]] = [[] for _ in range(limits.slots)]  # and held when it was last kept
        self.state.keep(range(limits.slots))

    @classmethod
    def open(cls, path: Path, target: Limits, *, threads: int | None = None) -> DraftModel:
        """The model of a package, with as many rows and as long a context as its target."""
        package = Package.open(path)
        own = Limits.from_manifest(package.manifest)
        if own.vocab_size != target.vocab_size:
            raise RunError(
                "run.speculation",
                f"decoding.draft: its vocabulary has {own.vocab_size} words, the target's {target.vocab_size}",
                hint="a draft model shares its target's tokenizer",
            )
        session = open_session(package, threads=threads)
        limits = replace(own, slots=target.slots, ctx_len=target.ctx_len)
        return cls(session, limits, package.model.get("max_position_embeddings"))

    def propose(self, answers: Sequence[Answer], most: Sequence[int]) -> list[list[int]]:
        drafts: dict[int, list[int]] = {}
        wanted = {
            answer.slot: min(count, self._longest - len(answer.token_ids))
            for answer, count in zip(answers, most, strict=True)
        }
        texts = {answer.slot: list(answer.token_ids) for answer in answers if wanted[answer.slot] > 0}
        for slot, text in texts.items():
            drafts[slot] = []
            self._take_back(slot, _common(self._fed[slot], text[:-1]))
        known = {slot: len(text) for slot, text in texts.items()}
        while texts:
            for slot, token in self._feed(texts):
                if len(texts[slot]) == known[slot]:  # what comes from here on is a guess
                    self.state.keep([slot])
                    self._kept[slot] = list(self._fed[slot])
                drafts[slot].append(token)
                texts[slot].append(token)
                if len(drafts[slot]) >= wanted[slot]:
                    del texts[slot]
        return [drafts.get(answer.slot, []) for answer in answers]

    def _take_back(self, slot: int, count: int) -> None:
        """Leaves of what a slot was fed its first `count` tokens, or fewer where states are replaced whole."""
        fed, kept = self._fed[slot], self._kept[slot]
        if count < len(fed) and self.state.replaced:
            count = len(kept) if len(kept) <= count and fed[: len(kept)] == kept else 0  # at 0 a text begins anew
            self.state.put_back([slot])
        self._fed[slot] = fed[:count]

    def _feed(self, texts: dict[int, list[int]]) -> list[tuple[int, int]]:
        """One run: a chunk of what each slot has not fed yet; the next token of those that are through."""
        left = {slot: text[len(self._fed[slot]) :] for slot, text in texts.items()}
        width = min(max(map(len, left.values())), self._limits.prefill_seq_len)
        rows = [Row(slot, len(self._fed[slot]), tokens[:width]) for slot, tokens in left.items()]
        logits = self.state.run(width, rows)
        for slot, tokens in left.items():
            self._fed[slot] += tokens[:width]
        return [(slot, int(logits[slot, 0].argmax())) for slot, tokens in left.items() if len(tokens) <= width]


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    size = min(len(left), len(right))
    if left[:size] == right[:size]:
        return size
    return next(place for place in range(size) if left[place] != right[place])


def drafter(decoding: DecodingSpec, target: Limits, threads: int | None) -> Drafter:
    """The one that a call asks for."""
    if decoding.draft is None:
        return PromptLookup(decoding.max_ngram_size)
    return DraftModel.open(Path(decoding.draft), target, threads=threads)
