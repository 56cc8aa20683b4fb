"""How much each weight matters: what the model says when that one alone has 4 bits, against what it says exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qeffbuild.calibration.flow import EXACT, Flow
from qeffbuild.graph.blocks import restore, round_to_nearest

LOGITS = "logits"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One product: its name, what it reads and makes in the graph, and a way to its matrices, [N, K] each."""

    name: str
    x: str
    output: str
    matrices: Callable[[], list[np.ndarray]]
    turned: bool  # the graph has each matrix as [K, N]
    is_stack: bool


def measure(flow: Flow, candidates: Sequence[Candidate], *, block_size: int) -> dict[str, float]:
    """Mean KL(exact || one weight in 4 bits) over all tokens, in nats, for each candidate by name.

    All of them go through the graph at once, each on a path of its own from its product on.
    """
    for path, candidate in enumerate(candidates, EXACT + 1):
        flow.reach(candidate.x)
        rounded = [_in_four_bits(matrix, block_size) for matrix in candidate.matrices()]
        turned = [matrix.T if candidate.turned else matrix for matrix in rounded]
        whole = np.stack(turned) if candidate.is_stack else turned[0]
        flow.substitute(candidate.output, np.ascontiguousarray(whole), path)
    found = divergence(flow, range(EXACT + 1, EXACT + 1 + len(candidates)))
    return {candidate.name: value for candidate, value in zip(candidates, found, strict=True)}


def divergence(flow: Flow, paths: Sequence[int]) -> list[float]:
    """Mean KL(exact || path) over all tokens, in nats; the last thing that a flow is good for."""
    sums, batches = dict.fromkeys(paths, 0.0), 0
    exact = np.empty(0)
    for path, logits in flow.last(LOGITS):
        if path == EXACT:
            exact, batches = _log_shares(logits), batches + 1
        else:
            sums[path] += float((np.exp(exact) * (exact - _log_shares(logits))).sum(-1).mean())
    return [max(0.0, total / max(batches, 1)) for total in sums.values()]


def in_eight_bits(sensitivity: Mapping[str, float], sizes: Mapping[str, int], *, most: float) -> list[str]:
    """The weights that get 8 bits, so that what the others lose together is at most `most`: fewest bytes for most KL.

    Losses add up as long as they are small, and 8 bits count as none.
    """
    order = sorted(sensitivity, key=lambda name: (-sensitivity[name] / sizes[name], name))
    left, chosen = sum(sensitivity.values()), []
    for name in order:
        if left <= most:
            break
        chosen.append(name)
        left -= sensitivity[name]
    return sorted(chosen)


def _in_four_bits(matrix: np.ndarray, block_size: int) -> np.ndarray:
    blocks = round_to_nearest(matrix, bits=4, block_size=block_size, symmetric=True)
    return restore(blocks, bits=4, columns=matrix.shape[1])


def _log_shares(logits: np.ndarray) -> np.ndarray:
    relative = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    shares: np.ndarray = relative - np.log(np.exp(relative).sum(-1, keepdims=True))
    return shares
