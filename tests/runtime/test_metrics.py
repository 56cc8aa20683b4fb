"""Latency figures count what they say: prompt tokens and decoded tokens apart, no padding, no idle rows."""

from __future__ import annotations

from time import perf_counter

import pytest

from qeffbuild.runtime.bench import bench
from qeffbuild.runtime.metrics import Tally, peak_rss_mb
from qeffbuild.spec.types import DecodingSpec

FIGURES = {
    "ttft_s", "prefill_tokens_per_s", "decode_tokens_per_s", "decode_turn_s", "total_tokens_per_s", "e2e_s", "load_s",
    "peak_rss_mb", "draft_acceptance", "tokens_per_target_run",
}  # fmt: skip


def test_the_figures_follow_from_the_tally():
    tally = Tally(
        began=100.0,
        prefill_tokens=30,
        prefill_s=2.0,
        decode_tokens=12,
        decode_turns_s=[0.25, 0.25, 2.5],
        first_tokens_s=[1.0, 2.0],
        ended=107.0,
    )

    metrics = tally.metrics(load_s=0.5).as_json()

    assert metrics.pop("peak_rss_mb") == pytest.approx(peak_rss_mb(), rel=0.1)
    assert metrics == {
        "ttft_s": 1.5,
        "prefill_tokens_per_s": 15.0,
        "decode_tokens_per_s": 4.0,
        "decode_turn_s": 0.25,
        "total_tokens_per_s": 2.0,  # 2 first tokens and 12 more in 7 s
        "e2e_s": 7.0,
        "load_s": 0.5,
        "draft_acceptance": None,
        "tokens_per_target_run": None,
    }


def test_a_run_counts_each_prompt_token_and_each_decoded_token_once(toy):
    engine, _, _ = toy(slots=4, prefill_seq_len=4)
    before = perf_counter()

    metrics = engine.generate([[1] * 5, [2], [3] * 9], DecodingSpec(max_new_tokens=6)).metrics

    elapsed = perf_counter() - before
    assert 0 < metrics.ttft_s < metrics.e2e_s < elapsed
    assert metrics.prefill_tokens_per_s > 15 / elapsed
    assert metrics.decode_tokens_per_s > 3 * 5 / elapsed
    assert metrics.total_tokens_per_s == pytest.approx(3 * 6 / metrics.e2e_s)


def test_drafts_count_by_rows_and_by_tokens() -> None:
    tally = Tally(began=0.0)
    tally.first_tokens_s, tally.prefill_tokens, tally.prefill_s = [0.5], 3, 0.5

    for drafted, tokens_out in ((4, 5), (4, 1), (0, 1)):
        tally.verified_drafts(drafted, tokens_out)
    tally.decoded(0.0, 7)
    metrics = tally.metrics(load_s=0.0)

    assert metrics.draft_acceptance == 4 / 8
    assert metrics.tokens_per_target_run == 7 / 3


def test_the_time_that_a_reader_takes_is_no_decode_time(toy):
    engine, _, _ = toy()
    stream = engine.stream([[1, 2]], DecodingSpec(max_new_tokens=8))
    for _ in stream:
        until = perf_counter() + 0.01
        while perf_counter() < until:
            pass

    metrics = stream.result().metrics

    assert metrics.e2e_s >= 0.07
    assert 7 / metrics.decode_tokens_per_s < metrics.e2e_s - 0.06


def test_one_token_has_no_decode_rate(toy):
    engine, _, _ = toy()

    metrics = engine.generate([[1, 2]], DecodingSpec(max_new_tokens=1)).metrics

    assert metrics.decode_tokens_per_s is None


def test_bench_runs_once_more_than_it_counts_and_spreads_each_figure(toy):
    engine, _, session = toy()

    found = bench(engine, [[1, 2]], DecodingSpec(max_new_tokens=3), runs=4)

    assert len(session.shapes) == 5 * 3
    assert set(found) == FIGURES
    drafts = [found.pop(name) for name in ("draft_acceptance", "tokens_per_target_run")]
    assert drafts == [{"median": None, "min": None, "max": None, "runs": 4}] * 2
    for spread in found.values():
        assert spread["min"] <= spread["median"] <= spread["max"]
        assert spread["runs"] == 4


def test_bench_says_null_for_what_no_run_has(toy):
    engine, _, _ = toy()

    found = bench(engine, [[1, 2]], DecodingSpec(max_new_tokens=1), runs=2)

    assert found["decode_tokens_per_s"] == {"median": None, "min": None, "max": None, "runs": 2}
    assert found["decode_turn_s"] == found["decode_tokens_per_s"]
