"""Logits that prefill kept -> how likely each token of a prompt was, given those before it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qeffbuild.runtime.request import Request
from qeffbuild.runtime.scheduler import Turn


class PromptScores:
    """The log-probabilities of the prompts of one call. The first token has none, nor has one whose logits went by."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._scores: dict[int, list[float | None]] = {
            request.id: [None] * len(request.token_ids) for request in requests
        }
        self._by_slot: dict[int, Request] = {}

    def add(self, turn: Turn, logits_BNV: np.ndarray) -> None:
        """Takes in a prefill: the logits of the last tokens of each row foretell the tokens that follow them."""
        self._by_slot |= {answer.slot: answer.request for answer in turn.entering}
        for slot, start, token_ids, _ in turn.rows:
            request, stop = self._by_slot[slot], start + len(token_ids)
            first = max(stop - logits_BNV.shape[1], start) + 1
            wanted_N = np.array(request.token_ids[first : stop + 1], np.int64)
            logits_NV = logits_BNV[slot, : len(wanted_N)].astype(np.float64)
            logits_NV -= logits_NV.max(axis=-1, keepdims=True)
            found_N = np.take_along_axis(logits_NV, wanted_N[:, None], axis=-1)[:, 0]
            scores_N = found_N - np.log(np.exp(logits_NV).sum(axis=-1))
            self._scores[request.id][first : first + len(wanted_N)] = scores_N.tolist()

    def of(self, request: Request) -> tuple[float | None, ...]:
        return tuple(self._scores[request.id])


def last_of(turn: Turn, logits_BNV: np.ndarray) -> np.ndarray:
    """Of each row the logits of its last token."""
    if logits_BNV.shape[1] == 1:
        return logits_BNV[:, 0]
    places = np.zeros((len(logits_BNV), 1, 1), np.int64)
    for row in turn.rows:
        places[row.slot] = min(len(row.token_ids), logits_BNV.shape[1]) - 1
    last: np.ndarray = np.take_along_axis(logits_BNV, places, axis=1)[:, 0]
    return last
