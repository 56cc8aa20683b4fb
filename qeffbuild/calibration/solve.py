"""A weight, what reached it, and a grid of steps -> the integers that change the product's output least.

GPTQ (Frantar et al. 2022): columns are rounded one after another, those with the largest inputs first, and each one's
error is made good in those still to come. Then coordinate descent on the same error: each integer is looked at again
with all others held, and the scales are fitted anew to the integers. All of it minimises
trace((W - V) H (W - V)T) for one matrix at a time.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qeffbuild.calibration.seen import Seen
from qeffbuild.graph.blocks import Grid, nearest

DAMPING = 0.01  # of the mean of H's diagonal, added to it: directions that calibration never saw are left alone
ROUNDS = 3  # of coordinate descent and new scales
_LAZY = 128  # columns whose effect on the rest is worked out together


def aim(weight: np.ndarray, seen: Seen) -> np.ndarray:
    """The weight that gives, from inputs already disturbed by quantized layers before, the output nearest to the exact.

    The least-squares answer W E[y xT] (E[x xT] + damping)^-1, written as a correction of W.
    """
    damped = _damped(seen.hessian)
    correction = np.linalg.solve(damped, (seen.cross - seen.hessian).T).T
    return (weight + weight @ correction).astype(np.float32)


def gptq(weight: np.ndarray, hessian: np.ndarray, grid: Grid) -> np.ndarray:
    """Integers [N, K] for a weight [N, K] on a grid whose blocks lie as they will be stored."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    damped = _damped(hessian)[np.ix_(order, order)]
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    scales, zeros = grid.along(order)
    rest = weight[:, order].astype(np.float32)
    numbers = np.empty(rest.shape, np.uint8)
    for start in range(0, rest.shape[1], _LAZY):
        end = min(start + _LAZY, rest.shape[1])
        errors = np.empty((len(rest), end - start), np.float32)
        for at in range(start, end):
            chosen = nearest(rest[:, at], scales[:, at], zeros[:, at], grid.bits)
            error = (rest[:, at] - (chosen - zeros[:, at]) * scales[:, at]) / upper[at, at]
            rest[:, at + 1 : end] -= error[:, None] * upper[at, at + 1 : end]
            numbers[:, at], errors[:, at - start] = chosen, error
        rest[:, end:] -= errors @ upper[start:end, end:]
    back = np.empty_like(numbers)
    back[:, order] = numbers
    return back


def descend(weight: np.ndarray, hessian: np.ndarray, grid: Grid, numbers: np.ndarray) -> tuple[Grid, np.ndarray]:
    """Coordinate descent from `numbers`; keeps the better of what it came from and what it found, row by row."""
    damped = _damped(hessian).astype(np.float32)
    for _ in range(ROUNDS):
        numbers = _sweep(weight, damped, grid, numbers)
        grid = _fit_scales(weight, damped, grid, numbers)
    return grid, _sweep(weight, damped, grid, numbers)


def loss(weight: np.ndarray, other: np.ndarray, hessian: np.ndarray) -> float:
    """The squared error of the outputs, as a part of the outputs' own size."""
    lost = other - weight
    whole = float(((weight @ hessian) * weight).sum())
    return float(((lost @ hessian) * lost).sum()) / whole if whole else 0.0


def _sweep(weight: np.ndarray, hessian: np.ndarray, grid: Grid, numbers: np.ndarray) -> np.ndarray:
    """Every integer once, each moved to where the error is least while the others stay."""
    columns = numbers.shape[1]
    scales, zeros = grid.along(np.arange(columns))
    values = grid.values(numbers)
    slope = (weight - values) @ hessian
    numbers = numbers.copy()
    for start in range(0, columns, _LAZY):
        part = slice(start, min(start + _LAZY, columns))
        moved = np.zeros((len(values), part.stop - start), np.float32)
        for at in range(part.start, part.stop):
            best = values[:, at] + slope[:, at] / hessian[at, at]
            numbers[:, at] = nearest(best, scales[:, at], zeros[:, at], grid.bits)
            step = (numbers[:, at] - zeros[:, at]) * scales[:, at] - values[:, at]
            slope[:, part] -= step[:, None] * hessian[at, part]
            moved[:, at - start] = step
        values[:, part] += moved
        inside = slope[:, part].copy()
        slope -= moved @ hessian[part]
        slope[:, part] = inside
    return numbers


def _fit_scales(weight: np.ndarray, hessian: np.ndarray, grid: Grid, numbers: np.ndarray) -> Grid:
    """The scales that, with these integers, lose least: one small least-squares problem per row."""
    columns, count = numbers.shape[1], grid.scales.shape[1]
    _, zeros = grid.along(np.arange(columns))
    steps = (numbers - zeros).astype(np.float32)
    wanted = weight @ hessian
    square = np.empty((len(steps), count, count))
    right = np.empty((len(steps), count))
    edges = range(0, columns, grid.block_size)
    for at, start in enumerate(edges):
        part = slice(start, start + grid.block_size)
        through = steps[:, part] @ hessian[part]
        square[:, at] = np.add.reduceat(through * steps, list(edges), axis=1)
        right[:, at] = (steps[:, part] * wanted[:, part]).sum(1)
    size = np.einsum("nbb->nb", square)
    square += np.eye(count) * (1e-6 * size + (size == 0))[:, None]
    right += 1e-6 * size * grid.scales
    return replace(grid, scales=np.linalg.solve(square, right[..., None])[..., 0].astype(np.float32))


def _damped(hessian: np.ndarray) -> np.ndarray:
    mean = float(np.diag(hessian).mean()) or 1.0
    return hessian + DAMPING * mean * np.eye(len(hessian))
