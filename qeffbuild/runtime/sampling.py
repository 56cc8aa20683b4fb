"""Logits -> token ids: greedy, or drawn after penalties, temperature, top-k, top-p and min-p, in this order.

The order and the meaning of each are those that vLLM and transformers document:
* repetition penalty: logits of tokens in prompt or answer are divided by it where positive, multiplied where negative;
* presence penalty: subtracted once from the logits of tokens in the answer;
* top-k keeps the k largest logits (ties of the k-th too), top-p the smallest set of the likeliest whose probabilities
  reach p (after top-k), min-p the tokens at least that fraction as likely as the likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

from qeffbuild.errors import RunError
from qeffbuild.runtime.rules import Rules
from qeffbuild.spec.types import DecodingSpec

_BLOCK = 64
NOT_FINITE = "look for NaN in the weights, or build with model.dtype=float32"


class Sampler:
    """The choices of one request: its random stream, and the tokens that the penalties look at.

    The stream depends on the seed alone: a request draws the same tokens whatever runs beside it. `rules` come before
    all penalties; they count the tokens, of which there are `most` in the end.
    """

    __slots__ = ("_answered", "_decoding", "_most", "_prompt", "_random", "_rules", "_seen", "_token_ids", "is_argmax")

    def __init__(
        self,
        decoding: DecodingSpec,
        prompt: Sequence[int],
        vocab_size: int,
        rules: Rules | None = None,
        most: int = 0,
    ) -> None:
        is_penalised = decoding.repetition_penalty != 1.0 or decoding.presence_penalty != 0.0
        self.is_argmax = decoding.temperature == 0.0 and not is_penalised and rules is None
        self._rules, self._prompt, self._token_ids, self._most = rules, len(prompt), list(prompt), most
        self._decoding = decoding
        self._random = np.random.default_rng(decoding.seed) if decoding.temperature else None
        self._seen = self._answered = np.zeros(0, bool)
        if is_penalised:
            self._seen, self._answered = np.zeros((2, vocab_size), bool)
            self._seen[list(prompt)] = True

    def choose(self, logits_V: np.ndarray) -> int:
        """The next token; remembered for the penalties of the one after."""
        if self._rules is not None:
            logits_V = np.array(logits_V)
            self._rules.apply(logits_V, self._token_ids, self._prompt, self._most)
        penalised = self._penalise(logits_V) if self._seen.size else logits_V
        token_id = int(penalised.argmax()) if self._random is None else self._draw(penalised, self._random)
        if self._seen.size:
            self._seen[token_id] = self._answered[token_id] = True
        if self._rules is not None:
            self._token_ids.append(token_id)
        return token_id

    def _penalise(self, logits_V: np.ndarray) -> np.ndarray:
        penalised, penalty = np.array(logits_V), self._decoding.repetition_penalty
        seen = penalised[self._seen]
        penalised[self._seen] = np.where(seen < 0, seen * penalty, seen / penalty)
        penalised[self._answered] -= self._decoding.presence_penalty
        return penalised

    def _draw(self, logits_V: np.ndarray, random: np.random.Generator) -> int:
        token_ids, probabilities = candidates(logits_V, self._decoding)
        edges = probabilities.cumsum()
        place = edges.searchsorted(random.random() * edges[-1], side="right")
        return int(token_ids[min(place, len(token_ids) - 1)])


def candidates(logits_V: np.ndarray, decoding: DecodingSpec) -> tuple[np.ndarray, np.ndarray]:
    """Token ids that may be drawn and their probabilities, which add up to 1. The temperature is above 0."""
    token_ids, logits = np.arange(len(logits_V)), logits_V
    if 0 < decoding.top_k < len(logits_V):
        token_ids = _largest(logits_V, decoding.top_k)
        logits = logits_V[token_ids]
    # The largest is taken off before the division, so that a tiny temperature ends in 0 and -inf, not in inf - inf.
    scaled = (logits - logits.max()).astype(np.float64) / decoding.temperature
    probabilities = np.exp(scaled)
    probabilities /= probabilities.sum()
    if decoding.top_p < 1.0:
        inside = _nucleus(probabilities, decoding.top_p)
        token_ids, probabilities = token_ids[inside], probabilities[inside]
    if decoding.min_p > 0.0:
        inside = np.flatnonzero(probabilities >= decoding.min_p * probabilities.max())
        token_ids, probabilities = token_ids[inside], probabilities[inside]
    return token_ids, probabilities / probabilities.sum()


def _largest(logits_V: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest, and of those equal to the smallest of them."""
    # The k-th largest of the maxima of blocks is a bound that at least k logits reach: what is below it needs no
    # sorting, and that is nearly all of a large vocabulary.
    blocks = len(logits_V) // _BLOCK
    token_ids = np.arange(len(logits_V))
    if blocks >= k:
        maxima = logits_V[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
        token_ids = np.flatnonzero(logits_V >= np.partition(maxima, -k)[-k])
    logits = logits_V[token_ids]
    return token_ids[logits >= np.partition(logits, -k)[-k]]


def _nucleus(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """Indices of the likeliest tokens, each taken while those before it add up to less than top_p; at least one."""
    # All tokens below (1 - p) / n add up to less than 1 - p, so none is in the nucleus: only the rest is sorted, which
    # is a few hundred of a large vocabulary. Half of it leaves room for rounding.
    likely = np.flatnonzero(probabilities >= (1.0 - top_p) / (2 * len(probabilities)))
    order = likely[np.argsort(-probabilities[likely], kind="stable")]
    before = np.cumsum(probabilities[order]) - probabilities[order]
    return order[: max(1, int(np.count_nonzero(before < top_p)))]


def choose_one(logits_V: np.ndarray, sampler: Sampler) -> int:
    """The next token by one row of logits."""
    largest = int(logits_V.argmax())
    if not isfinite(logits_V[largest]):
        raise _not_finite()
    return largest if sampler.is_argmax else sampler.choose(logits_V)


def choose(logits_BV: np.ndarray, slots: Sequence[int], samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each listed row of the logits. Greedy rows share one argmax, the others draw row by row."""
    largest = logits_BV.argmax(axis=-1).tolist()
    # An argmax stops at the first NaN, so the largest value tells whether any is there.
    for slot in slots:
        if not isfinite(logits_BV[slot, largest[slot]]):
            raise _not_finite()
    return [
        largest[slot] if sampler.is_argmax else sampler.choose(logits_BV[slot])
        for slot, sampler in zip(slots, samplers, strict=True)
    ]


def _not_finite() -> RunError:
    return RunError("run.logits", "the model gave logits that are not finite numbers", hint=NOT_FINITE)
