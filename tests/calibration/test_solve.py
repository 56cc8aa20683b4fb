"""Integers chosen by what they do to the output lose less there than the nearest ones."""

from __future__ import annotations

import numpy as np
import pytest

from qeffbuild import quantizers
from qeffbuild.calibration.seen import Seen, sum_up
from qeffbuild.calibration.solve import aim, descend, gptq, loss
from qeffbuild.graph.blocks import fit_grid, restore

ROWS, COLUMNS = 24, 80


def inputs(seed: int = 0) -> np.ndarray:
    """Columns that go together, some of them large: what layers of real models look like."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((400, 30)) @ rng.standard_normal((30, COLUMNS))
    return (mixed + 0.1 * rng.standard_normal(mixed.shape)) * np.exp(rng.standard_normal(COLUMNS))


def seen_of(x: np.ndarray, y: np.ndarray | None = None) -> Seen:
    return sum_up([(x, x if y is None else y)], experts=1)[0]


@pytest.fixture(scope="module")
def weight() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((ROWS, COLUMNS)).astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [16, 32, 128])
def test_each_stage_loses_less_than_the_one_before(weight: np.ndarray, block_size: int, symmetric: bool) -> None:
    hessian = seen_of(inputs()).hessian
    plain = fit_grid(weight, bits=4, block_size=block_size, symmetric=symmetric)
    grid = fit_grid(weight, bits=4, block_size=block_size, symmetric=symmetric, hessian=hessian)

    numbers = gptq(weight, hessian, grid)
    better, fewer = descend(weight, hessian, grid, numbers)

    nearest = loss(weight, plain.values(plain.numbers(weight)), hessian)
    first, last = loss(weight, grid.values(numbers), hessian), loss(weight, better.values(fewer), hessian)
    assert last < first < nearest / 2


def test_the_aim_gives_the_exact_output_from_disturbed_inputs(weight: np.ndarray) -> None:
    exact = inputs()
    disturbed = exact + 0.3 * np.random.default_rng(2).standard_normal(exact.shape)

    aimed = aim(weight, seen_of(disturbed, exact))

    wanted = exact @ weight.T
    assert np.linalg.norm(disturbed @ aimed.T - wanted) < 0.95 * np.linalg.norm(disturbed @ weight.T - wanted)
    np.testing.assert_allclose(aim(weight, seen_of(exact)), weight, atol=1e-5)


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("bits", [4, 8])
def test_calibrated_methods_beat_round_to_nearest_and_give_the_same_bytes_twice(
    weight: np.ndarray, method: str, bits: int
) -> None:
    seen, found = seen_of(inputs()), quantizers.find(method)
    said = {"bits": bits, "block_size": 32, "symmetric": True}
    factors = found.scale_inputs([weight], seen, **said) if method == "awq" else np.ones(COLUMNS, np.float32)

    once = found.quantize(weight * factors, **said, seen=seen.divided(factors))
    again = found.quantize(weight * factors, **said, seen=seen.divided(factors))

    plain = quantizers.find(f"int{bits}").quantize(weight, **said)
    ours, theirs = (restore(blocks, bits=bits, columns=COLUMNS) for blocks in (once, plain))
    assert loss(weight, ours / factors, seen.hessian) < loss(weight, theirs, seen.hessian) * 0.75
    assert once.packed.tobytes() == again.packed.tobytes()
    assert once.scales.tobytes() == again.scales.tobytes()


@pytest.mark.parametrize("symmetric", [True, False])
def test_hqq_loses_less_in_the_norm_that_forgives_single_large_weights(symmetric: bool) -> None:
    weight = np.random.default_rng(5).standard_t(3, (32, 256)).astype(np.float32)
    said = {"bits": 4, "block_size": 64, "symmetric": symmetric}

    lost = {
        method: np.abs(restore(quantizers.find(method).quantize(weight, **said), bits=4, columns=256) - weight)
        for method in ("hqq", "int4")
    }

    assert (lost["hqq"] ** 0.7).sum() < (lost["int4"] ** 0.7).sum()


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_inputs_that_calibration_never_saw_do_no_harm(weight: np.ndarray, method: str) -> None:
    x = inputs()
    x[:, 7] = 0
    seen, found = seen_of(x), quantizers.find(method)

    blocks = found.quantize(weight, bits=4, block_size=16, symmetric=True, seen=seen)

    restored = restore(blocks, bits=4, columns=COLUMNS)
    assert np.isfinite(restored).all()
    assert np.abs(restored[:, 7] - weight[:, 7]).max() < 1.5
