"""Sampling keeps exactly the tokens that its definition keeps, with the probabilities that they then have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qeffbuild.errors import RunError
from qeffbuild.runtime.sampling import Sampler, candidates, choose
from qeffbuild.spec.types import DecodingSpec

# Logits in hundredths, so that no two are equally likely but by being equal.
logits = st.lists(st.integers(-2000, 2000), min_size=1, max_size=40, unique=True).map(
    lambda values: np.array(values, np.float32) / 100
)


def by_definition(logits: np.ndarray, decoding: DecodingSpec) -> dict[int, float]:
    """Token -> probability, one filter after the other over a plain list, as one would explain it."""
    scaled = [float(value) / decoding.temperature for value in logits]
    kept = sorted(range(len(scaled)), key=lambda token: -scaled[token])
    if decoding.top_k:
        kept = kept[: decoding.top_k]
    weights = {token: np.exp(scaled[token] - max(scaled)) for token in kept}
    before, nucleus = 0.0, []
    for token in kept:
        if before < decoding.top_p or not nucleus:
            nucleus.append(token)
        before += weights[token] / sum(weights.values())
    kept = [token for token in nucleus if weights[token] >= decoding.min_p * weights[nucleus[0]]]
    total = sum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept}


def distribution(logits: np.ndarray, decoding: DecodingSpec) -> dict[int, float]:
    token_ids, probabilities = candidates(logits, decoding)
    return dict(zip(token_ids.tolist(), probabilities.tolist(), strict=True))


@settings(deadline=None)
@given(
    logits=logits,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.9]),
    top_k=st.integers(0, 45),
    top_p=st.floats(0.0, 1.0).map(lambda p: round(p, 3) + 1e-7).filter(lambda p: p < 1.0),
    min_p=st.sampled_from([0.0, 0.013, 0.11, 0.9]),
)
def test_the_candidates_are_those_of_the_definition(logits, temperature, top_k, top_p, min_p):
    decoding = DecodingSpec(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)

    found, expected = distribution(logits, decoding), by_definition(logits, decoding)

    assert found == pytest.approx(expected, abs=1e-6)


@given(
    seed=st.integers(0, 1000), top_k=st.integers(1, 60), size=st.integers(60, 4000), levels=st.sampled_from([5, 1000])
)
def test_top_k_of_a_large_vocabulary_keeps_the_k_largest_and_their_ties(seed, top_k, size, levels):
    logits = np.random.default_rng(seed).integers(0, levels, size).astype(np.float32)

    token_ids, _ = candidates(logits, DecodingSpec(temperature=1.0, top_k=top_k))

    assert token_ids.tolist() == np.flatnonzero(logits >= np.sort(logits)[-top_k]).tolist()


@given(logits=logits)
def test_top_k_0_and_top_p_1_and_min_p_0_are_off(logits):
    off = DecodingSpec(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)

    found = distribution(logits, off)

    exact = np.exp(logits.astype(np.float64) - logits.max())
    assert found == pytest.approx(dict(enumerate(exact / exact.sum())))
    assert found == distribution(logits, DecodingSpec(temperature=1.0, top_k=len(logits)))


@given(logits=logits, decoding=st.sampled_from([{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}]))
def test_the_strictest_filters_leave_the_likeliest_token(logits, decoding):
    assert list(distribution(logits, DecodingSpec(temperature=1.0, **decoding))) == [logits.argmax()]


def test_draws_follow_the_candidates_probabilities():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(DecodingSpec(temperature=1.0, top_k=3, seed=3), [], 4)

    draws = np.bincount([sampler.choose(logits) for _ in range(20_000)], minlength=4) / 20_000

    # Three standard deviations of 20 000 draws are about 0.01.
    assert draws == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0], abs=0.012)


@given(seed=st.integers(0, (1 << 63) - 1))
def test_a_seed_decides_every_draw(seed):
    logits = np.zeros(50, np.float32)
    one, same, other = (Sampler(DecodingSpec(temperature=1.0, seed=s), [], 50) for s in (seed, seed, seed ^ 1))

    draws = [[sampler.choose(logits) for _ in range(20)] for sampler in (one, same, other)]

    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-6])
def test_a_tiny_temperature_is_greedy_and_never_nan(temperature):
    token_ids, probabilities = candidates(np.array([1, 3, 2], np.float32), DecodingSpec(temperature=temperature))

    assert probabilities[token_ids == 1].tolist() == [1.0]
    assert np.isfinite(probabilities).all()


@settings(deadline=None, max_examples=50)
@given(
    logits=logits.filter(lambda values: len(values) > 4),
    prompt=st.lists(st.integers(0, 4), max_size=6),
    penalty=st.sampled_from([0.5, 1.3, 2.0]),
)
def test_the_repetition_penalty_is_that_of_transformers(logits, prompt, penalty):
    torch = pytest.importorskip("torch")
    from transformers import RepetitionPenaltyLogitsProcessor

    sampler = Sampler(DecodingSpec(repetition_penalty=penalty), prompt, len(logits))
    tokens = list(prompt)
    for _ in range(4):
        scores = torch.from_numpy(logits[None].copy())
        if tokens:
            scores = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([tokens]), scores)

        tokens.append(sampler.choose(logits))

        assert tokens[-1] == int(scores.argmax())


def test_the_presence_penalty_counts_answers_only_and_once():
    logits = np.array([2.0, 1.5, 1.2], np.float32)
    sampler = Sampler(DecodingSpec(presence_penalty=0.6), [1, 2], 3)

    # 2.0 | 1.4 1.5 1.2 | 1.4 0.9 1.2 | 1.4: a second time costs nothing more
    assert [sampler.choose(logits) for _ in range(4)] == [0, 1, 0, 0]


def test_rows_are_chosen_by_their_own_samplers_and_idle_rows_are_not_looked_at():
    logits = np.array([[0, 9, 1], [np.nan, 0, 0], [5, 0, 4], [1, 2, 8]], np.float32)
    greedy, penalised = Sampler(DecodingSpec(), [], 3), Sampler(DecodingSpec(repetition_penalty=9.0), [0], 3)

    assert choose(logits, [3, 2, 0], [greedy, penalised, greedy]) == [2, 2, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_refused(value):
    with pytest.raises(RunError) as error:
        choose(np.array([[0, value, 1]], np.float32), [0], [Sampler(DecodingSpec(), [], 3)])

    assert error.value.kind == "run.logits"
