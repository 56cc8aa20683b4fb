"""What flows through a graph piece by piece is what flows through it whole; quantized weights change what is behind."""

from __future__ import annotations

import numpy as np
import pytest
from neutral_decoder import Decoder, make_decoder

from qeffbuild.calibration.flow import EXACT, QUANTIZED, Flow
from qeffbuild.calibration.seen import sum_up
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.products import Product, by_input
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.signature import IoSignature

ROWS = np.random.default_rng(3).integers(0, 60, (6, 11))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return make_decoder(tmp_path_factory.mktemp("flow"))


def flow_of(decoder: Decoder) -> tuple[Flow, list[list[Product]]]:
    path = decoder.exported / "graph.onnx"
    weights = Weights(Folder(decoder.exported), Folder(decoder.checkpoint, is_checkpoint=True))
    flow = Flow(load_graph(path), IoSignature.load(decoder.exported / "io.json"), weights, ROWS)
    return flow, by_input(load_graph(path).graph)


def logits(flow: Flow, path: int) -> np.ndarray:
    flow.reach("logits")
    return np.concatenate(list(flow.batches("logits", path)))


@pytest.mark.parametrize("cuts", ["all", "none"])
def test_the_exact_path_ends_in_the_logits_of_the_whole_model(decoder: Decoder, cuts: str) -> None:
    flow, groups = flow_of(decoder)
    for group in groups if cuts == "all" else []:
        flow.reach(group[0].x.name or "")

    found = logits(flow, EXACT)

    truth = np.stack([decoder.logits(list(row)) for row in ROWS[:4]])  # rows that fill no batch are left out
    assert flow.tokens == 4 * 11
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-4)


def test_another_weight_changes_one_path_and_only_what_lies_behind_it(decoder: Decoder) -> None:
    flow, groups = flow_of(decoder)
    last_fc = next(group[0] for group in reversed(groups) if "c_fc" in str(group[0].weight.name))
    output = last_fc.node.outputs[0].name or ""
    flow.reach(last_fc.x.name or "")
    before = [np.array_equal(*pair) for pair in zip(*both(flow, last_fc.x.name or ""), strict=True)]

    flow.substitute(output, np.zeros_like(decoder.weights["h.1.c_fc.weight"]))
    flow.reach(output)
    exact, quantized = both(flow, output)

    assert before == [True]
    spread = [np.ptp(found[0].reshape(-1, found[0].shape[-1]), axis=0).max() for found in (quantized, exact)]
    assert spread[0] < 1e-6 < spread[1]  # only the bias is left
    assert not np.allclose(logits(flow, EXACT), logits(flow, QUANTIZED))


def test_what_was_seen_is_the_mean_over_all_tokens() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 5))

    (seen,) = sum_up(zip(x, y, strict=True), experts=1)
    flat_x, flat_y = x.reshape(-1, 5), y.reshape(-1, 5)

    np.testing.assert_allclose(seen.hessian, flat_x.T @ flat_x / 24)
    np.testing.assert_allclose(seen.cross, flat_y.T @ flat_x / 24)
    np.testing.assert_allclose(seen.magnitude, np.abs(flat_y).mean(0))


def test_experts_with_rows_of_their_own_are_summed_up_apart() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))

    seen = sum_up(zip(x, x, strict=True), experts=3)
    shared = sum_up(zip(x[:, :1], x[:, :1], strict=True), experts=3)

    assert len(seen) == len(shared) == 3
    expected = np.einsum("btk,btl->kl", x[:, 1], x[:, 1]) / 8
    np.testing.assert_allclose(seen[1].hessian, expected)
    assert shared[0] is shared[2]


def both(flow: Flow, value: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return list(flow.batches(value, EXACT)), list(flow.batches(value, QUANTIZED))
