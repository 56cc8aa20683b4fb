"""Requests -> turns: which rows feed which tokens next, until every request has its answer; knows no tensors.

A turn is either a prefill (a chunk of prompt for each row that still has some) or a decode (one token for each row).
Prefill goes first, so all the rows of a decode are alike; rows that do not take part in a turn idle.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qeffbuild.runtime.request import Finish, Limits, Request


class Row(NamedTuple):
    """What one slot feeds in one turn: tokens that go to the positions from `start` on."""

    slot: int
    start: int
    token_ids: Sequence[int]
    adapter: int = 0  # which one answers; 0 is the model alone


@dataclass(slots=True)
class Answer:
    """A request under way: its slot, its tokens (prompt, then answer), and how many of them the cache holds."""

    request: Request
    slot: int
    token_ids: list[int]
    most_tokens: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """`ready` are the answers whose last known token is fed, so that this turn gives them their next one."""

    width: int  # tokens per row, padding included
    is_prefill: bool
    rows: list[Row]
    ready: list[Answer]
    entering: Sequence[Answer] = ()  # those that feed their first token


# Answers, and for each how many tokens at most -> for each what may come next.
Propose = Callable[[Sequence[Answer], Sequence[int]], list[list[int]]]


class Scheduler:
    """Holds the requests that wait and the answers under way, one per slot."""

    def __init__(self, requests: Iterable[Request], limits: Limits, propose: Propose | None = None) -> None:
        self._limits = limits
        self._propose = propose
        self._waiting = deque(requests)
        self._free = list(range(limits.slots))  # a heap: the lowest free slot is taken first
        self._prefilling: list[Answer] = []
        self._decoding: list[Answer] = []

    def schedule(self) -> Turn | None:
        """The next turn; None when every request is answered."""
        if self._waiting and self._free:
            self._admit()
        if self._prefilling:
            return self._prefill()
        if not self._decoding:
            return None
        return self._decode() if self._propose is None else self._verify(self._propose)

    def _decode(self) -> Turn:
        rows = [
            Row(answer.slot, answer.cached, answer.token_ids[-1:], answer.request.adapter) for answer in self._decoding
        ]
        return Turn(1, False, rows, self._decoding)

    def _verify(self, propose: Propose) -> Turn:
        """Each row feeds its last token and a draft, in the narrowest width that holds the longest of them."""
        longest = self._limits.draft_lengths[-1]
        # One token follows the draft in any case, so a draft may be that much shorter than what is still wanted.
        most = [min(longest, answer.most_tokens - len(answer.token_ids) - 1) for answer in self._decoding]
        drafts = propose(self._decoding, most)
        drafted = max(map(len, drafts))
        width = 1 + next(length for length in (0, *self._limits.draft_lengths) if length >= drafted)
        rows = [
            Row(answer.slot, answer.cached, [answer.token_ids[-1], *draft], answer.request.adapter)
            for answer, draft in zip(self._decoding, drafts, strict=True)
        ]
        return Turn(width, False, rows, self._decoding)

    def accept(self, answer: Answer, token_id: int) -> Finish | None:
        """Takes in one of the tokens that a turn with drafts gave; an answer that is finished takes no more."""
        finish = self._take(answer, token_id)
        if finish is not None:
            self._release([answer])
        return finish

    def advance(self, turn: Turn, token_ids: Sequence[int]) -> list[Finish | None]:
        """Takes in the token of each ready answer of the turn that has run; says which are finished, and why."""
        if turn.is_prefill:
            self._after_prefill(turn)
        finishes = [self._take(answer, token) for answer, token in zip(turn.ready, token_ids, strict=True)]
        if any(finishes):
            self._release([answer for answer, finish in zip(turn.ready, finishes, strict=True) if finish])
        return finishes

    def _admit(self) -> None:
        # Without continuous batching a batch is a unit: the next one begins when all of its rows are done.
        if not self._limits.is_continuous and len(self._free) < self._limits.slots:
            return
        while self._waiting and self._free:
            request, slot = self._waiting.popleft(), heapq.heappop(self._free)
            most_tokens = request.most_tokens(self._limits.ctx_len)
            self._prefilling.append(Answer(request, slot, list(request.token_ids), most_tokens))

    def _prefill(self) -> Turn:
        width = self._limits.prefill_seq_len
        stops = [_stop(answer, width) for answer in self._prefilling]
        rows = [
            Row(answer.slot, answer.cached, answer.token_ids[answer.cached : stop], answer.request.adapter)
            for answer, stop in zip(self._prefilling, stops, strict=True)
        ]
        # A row's first token comes from its own last chunk: the others may still have chunks to go, or be done.
        ready = [answer for answer, stop in zip(self._prefilling, stops, strict=True) if stop == len(answer.token_ids)]
        return Turn(width, True, rows, ready, [answer for answer in self._prefilling if not answer.cached])

    def _after_prefill(self, turn: Turn) -> None:
        for answer, row in zip(self._prefilling, turn.rows, strict=True):
            answer.cached += len(row.token_ids)
        self._prefilling = [answer for answer in self._prefilling if answer.cached < len(answer.token_ids)]
        self._decoding = self._decoding + turn.ready

    def _take(self, answer: Answer, token_id: int) -> Finish | None:
        answer.cached = len(answer.token_ids)
        answer.token_ids.append(token_id)
        if token_id in self._limits.eos_token_ids and not answer.request.decoding.ignore_eos:
            return "eos"
        return "length" if len(answer.token_ids) >= answer.most_tokens else None

    def _release(self, finished: list[Answer]) -> None:
        slots = {answer.slot for answer in finished}
        self._decoding = [answer for answer in self._decoding if answer.slot not in slots]
        for slot in slots:
            heapq.heappush(self._free, slot)


def _stop(answer: Answer, width: int) -> int:
    """Where a chunk ends: after `width` tokens, or before what has to be fed together and does not fit."""
    stop = min(answer.cached + width, len(answer.token_ids))
    for first, last in answer.request.whole:
        if answer.cached < first < stop < last:
            return first
    return stop
