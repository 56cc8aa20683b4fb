"""What reached a matrix product while calibrating, summed up in one square matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Seen:
    """Means over tokens: `hessian` of x xT, `cross` of y xT, `magnitude` of |y|; all [K, K] or [K].

    x is what arrives with the weights before quantized, y what arrives with exact ones. (w - v)T hessian (w - v) is the
    squared error of an output whose weights w became v.
    """

    hessian: np.ndarray
    cross: np.ndarray
    magnitude: np.ndarray

    def divided(self, factors: np.ndarray) -> Seen:
        """What is seen when the input is divided by these."""
        both = np.outer(factors, factors)
        return Seen(self.hessian / both, self.cross / both, self.magnitude / factors)


def sum_up(pairs: Iterable[tuple[np.ndarray, np.ndarray]], experts: int) -> list[Seen]:
    """One summary per expert (1: none). A pair is a batch on both paths, quantized and exact."""
    sums: list[list[np.ndarray]] = []
    tokens = 0
    for quantized, exact in pairs:
        x, y = _by_expert(quantized, experts), _by_expert(exact, experts)
        tokens += x.shape[1]
        for at in range(len(x)):
            if at == len(sums):
                width = x.shape[-1]
                sums.append([np.zeros((width, width)), np.zeros((width, width)), np.zeros(width)])
            sums[at][0] += x[at].T @ x[at]
            sums[at][1] += y[at].T @ x[at]
            sums[at][2] += np.abs(y[at]).sum(0)
    found = [Seen(*(total / tokens for total in each)) for each in sums]
    return found if len(found) == experts else found * experts


def _by_expert(x: np.ndarray, experts: int) -> np.ndarray:
    """[experts or 1, tokens, K]."""
    width = x.shape[-1]
    if experts > 1 and x.ndim == 3 and x.shape[0] == experts:
        return x
    return x.reshape(1, -1, width)
