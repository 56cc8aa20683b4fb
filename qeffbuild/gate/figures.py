"""What PyTorch says and what a graph says -> how far apart they are, and whether that is as near as it has to be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# Most difference, in spreads of what PyTorch says, where nothing is rounded but what the dtype itself rounds: of every
# number in float32; in a narrower one of the usual, for there rounding sends some tokens to another expert.
TOLERANCES: Mapping[str, float] = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}
# Beyond this a quantized graph is nearer to noise than to its model: something that has nothing to do with it gets 1.4,
# one wrong weight in the last of two layers 0.5 to 0.9, 8 bits of random weights 0.25 at most, 4 bits 0.6.
NOISE_OF_EIGHT_BITS, NOISE_OF_FEWER = 0.5, 0.65
LEAST_AGREEMENT = 0.9
# In nats, where the spec names no budget.
KL_OF_EIGHT_BITS, KL_OF_FEWER = 0.1, 0.5

Pair = tuple[np.ndarray, np.ndarray]  # [tokens, words] or [tokens, width]: PyTorch's, the graph's


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """`error` is the largest difference, `noise` the root of the mean squared one, both in spreads of the reference.

    `kl` is the mean over tokens of KL(PyTorch || graph) in nats, `agreement` how often both find the same one the
    likeliest; None where the output is no distribution.
    """

    tokens: int
    error: float | None
    noise: float | None
    kl: float | None
    agreement: float | None

    def as_json(self) -> dict[str, Any]:
        """To two digits."""
        return {name: value if isinstance(value, int) else _rounded(value) for name, value in asdict(self).items()}

    def at_most(self) -> dict[str, Any]:
        """What a manifest says, so that one package is the same on every machine: errors rounded up, coarsely."""
        agreement = None if self.agreement is None else math.floor(self.agreement * 100) / 100
        return {
            "tokens": self.tokens,
            "error": _up(self.error, 1e-4),
            "noise": _up(self.noise, 1e-4),
            "kl": _up(self.kl, 1e-6),
            "agreement": agreement,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that each figure may be, and the least of `agreement`; None: it is only reported."""

    error: float | None = None
    noise: float | None = None
    kl: float | None = None
    agreement: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def broken_by(self, found: Figures) -> str | None:
        """The first figure that is beyond its limit (or is no number), in words."""
        for name, limit in self.as_json().items():
            value, sign = getattr(found, name), -1 if name == "agreement" else 1
            if value is not None and not sign * value <= sign * limit:
                return f"{_WORDS[name]} {value:.2g} ({'at most' if sign > 0 else 'at least'} {limit:.2g})"
        return None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.1e}")


def _up(value: float | None, floor: float) -> float | None:
    """To the next of 1, 2, 5, 10, 20 ... times the floor."""
    if value is None or not math.isfinite(value):
        return value
    decade = floor
    while True:
        for step in (1, 2, 5):
            if value <= step * decade:
                return float(f"{step * decade:.0e}")
        decade *= 10


_WORDS = {
    "error": "the largest difference from PyTorch is, in spreads,",
    "noise": "the usual difference from PyTorch is, in spreads,",
    "kl": "the KL from PyTorch is, in nats,",
    "agreement": "the share of tokens that PyTorch chooses, too, is",
}


def exact(dtype: str, tolerance: float | None) -> Limits:
    most = TOLERANCES[dtype] if tolerance is None else tolerance
    return Limits(error=most) if dtype == "float32" else Limits(noise=most)


def tokens_only() -> Limits:
    """Where two tokens are as likely, rounding decides."""
    return Limits(agreement=LEAST_AGREEMENT)


def lossy(bits: int, kl: float | None, reported: float, tolerance: float | None = None) -> Limits:
    """`kl` is a budget beyond what quantizing itself has measured and `reported`."""
    budget = kl if kl is not None else KL_OF_EIGHT_BITS if bits >= 8 else KL_OF_FEWER
    noise = tolerance if tolerance is not None else NOISE_OF_EIGHT_BITS if bits >= 8 else NOISE_OF_FEWER
    return Limits(noise=noise, kl=reported + budget)


def usual_noise(bits: int) -> float:
    """What rounding to so many bits does to one layer, about."""
    return 0.02 if bits >= 8 else 0.1


def usual_error(limits: Limits) -> float:
    """What arithmetic alone does to one layer, at most, where the whole has these limits."""
    return limits.error / 100 if limits.error is not None else (limits.noise or 1.0) / 20


def compare(pairs: Sequence[Pair], *, are_logits: bool) -> Figures:
    """A graph may have more logits than the vocabulary has words."""
    pairs = [(wanted, found[..., : wanted.shape[-1]]) for wanted, found in pairs]
    differences = np.concatenate([(found - wanted).astype(np.float64).ravel() for wanted, found in pairs])
    spread = float(np.concatenate([wanted.ravel() for wanted, _ in pairs]).astype(np.float64).std()) or 1.0
    tokens = sum(len(wanted) for wanted, _ in pairs)
    return Figures(
        tokens=tokens,
        error=float(np.abs(differences).max()) / spread,
        noise=float(np.sqrt(np.square(differences).mean())) / spread,
        kl=sum(_divergence(*pair) for pair in pairs) / tokens if are_logits else None,
        agreement=sum(_agreeing(*pair) for pair in pairs) / tokens if are_logits else None,
    )


def compare_tokens(pairs: Sequence[Pair]) -> Figures:
    """Of a graph that gives out the tokens [tokens, 1] that it chose, and no logits."""
    tokens = sum(len(wanted) for wanted, _ in pairs)
    same = sum(int((wanted.argmax(-1) == found[:, 0]).sum()) for wanted, found in pairs)
    return Figures(tokens=tokens, error=None, noise=None, kl=None, agreement=same / tokens)


def _divergence(wanted: np.ndarray, found: np.ndarray) -> float:
    p, q = _log_shares(wanted), _log_shares(found)
    return max(0.0, float((np.exp(p) * (p - q)).sum()))


def _agreeing(wanted: np.ndarray, found: np.ndarray) -> int:
    return int((wanted.argmax(-1) == found.argmax(-1)).sum())


def _log_shares(logits: np.ndarray) -> np.ndarray:
    relative = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    shares: np.ndarray = relative - np.log(np.exp(relative).sum(-1, keepdims=True))
    return shares


def ends(length: int, after: int = 0) -> Iterator[tuple[int, int]]:
    """How a text goes through a graph with states: a prefill in two chunks, then its last two tokens one by one.

    The first chunk ends `after` so many tokens or later.
    """
    half, last = max(length // 2, after), length - 2
    yield from ((0, half), (half, last)) if half < last else ((0, last),)
    yield from ((last, last + 1), (last + 1, length))
