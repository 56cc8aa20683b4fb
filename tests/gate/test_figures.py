"""How far apart two answers are, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from qeffbuild.gate.figures import Limits, compare, compare_tokens, ends, exact, lossy

RNG = np.random.default_rng(0)


def test_the_same_answer_differs_by_nothing():
    logits = RNG.normal(size=(5, 30)).astype(np.float32)

    found = compare([(logits, logits)], are_logits=True)

    assert found.as_json() == {"tokens": 5, "error": 0.0, "noise": 0.0, "kl": 0.0, "agreement": 1.0}
    assert exact("float32", None).broken_by(found) is None


def test_an_answer_that_has_nothing_to_do_with_the_model_is_noise_at_any_scale():
    for scale in (1e-3, 1.0, 1e3):
        one, other = (scale * RNG.normal(size=(20, 50)) for _ in range(2))

        found = compare([(one, other)], are_logits=True)

        assert found.noise == pytest.approx(2**0.5, abs=0.1)
        assert lossy(4, 100.0, 0.0).broken_by(found) is not None


def test_what_is_no_number_is_beyond_every_limit():
    logits = RNG.normal(size=(2, 9))
    broken = np.where(logits > 1, np.nan, logits)

    assert exact("float32", 10.0).broken_by(compare([(logits, broken)], are_logits=False)) is not None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_token_that_rounding_sends_elsewhere_is_let_through_in_a_narrow_dtype_and_many_are_not(dtype):
    wanted = RNG.normal(size=(2000, 30)).astype(np.float32)
    for astray, is_broken in ((1, False), (200, True)):
        found = wanted.copy()
        found[:astray] = RNG.normal(size=(astray, 30))

        figures = compare([(wanted, found)], are_logits=True)

        assert exact("float32", None).broken_by(figures) is not None
        assert (exact(dtype, None).broken_by(figures) is not None) == is_broken


def test_words_that_a_vocabulary_does_not_have_count_for_nothing():
    logits = RNG.normal(size=(2, 9))
    wider = np.concatenate([logits, np.full((2, 7), 99.0)], axis=1)

    assert compare([(logits, wider)], are_logits=True).kl == 0


def test_a_budget_is_beyond_what_quantizing_has_reported():
    assert lossy(4, None, 0.02).kl == pytest.approx(0.52)
    assert lossy(8, None, 0.0).kl == pytest.approx(0.1)
    assert lossy(8, 0.3, 0.02).kl == pytest.approx(0.32)


def test_a_manifest_rounds_up_so_that_machines_agree():
    logits = RNG.normal(size=(100, 9))
    near = logits * (1 + 3e-6), logits * (1 + 9e-6)

    said = [compare([(logits, each)], are_logits=True).at_most() for each in near]

    assert said[0] == said[1] == {"tokens": 100, "error": 1e-4, "noise": 1e-4, "kl": 1e-6, "agreement": 1.0}


def test_chosen_tokens_have_to_be_the_likeliest_ones():
    logits = np.eye(10)

    found = compare_tokens([(logits, np.arange(10)[:, None] % 5)])

    assert found.agreement == 0.5
    assert Limits(agreement=0.9).broken_by(found) is not None


@pytest.mark.parametrize("length", range(4, 40))
def test_every_token_goes_through_once_and_the_last_two_alone(length):
    parts = list(ends(length))

    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert parts[-2:] == [(length - 2, length - 1), (length - 1, length)]
