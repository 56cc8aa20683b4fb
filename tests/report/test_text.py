"""Documents as a person reads them."""

from __future__ import annotations

from qeffbuild.report import text
from qeffbuild.report.table import Look

HIT = {"name": "fetch", "status": "hit", "because": [], "estimate": {"seconds": 1.0, "rss_mb": 1, "disk_mb": 1.0}}
BUILD = {
    "name": "export",
    "status": "build",
    "because": ["model.dtype float32 -> float16"],
    "estimate": {"seconds": 90.0, "rss_mb": 500, "disk_mb": 12.5},
}


def test_a_plan_says_what_each_step_costs_and_what_is_expected_in_all() -> None:
    assert text.plan({"steps": [HIT, BUILD]}, Look()).splitlines() == [
        "STEP    STATUS  SECONDS  MEMORY     DISK  BECAUSE",
        "fetch   HIT",
        "export  BUILD    1m 30s  524 MB  12.5 MB  model.dtype float32 -> float16",
        "2 steps: 1 hit, 1 build; about 1m 30s",
    ]


def test_what_is_not_known_is_not_guessed() -> None:
    new = {**BUILD, "name": "lower", "estimate": None}

    assert text.plan({"steps": [new]}, Look()).endswith("1 step: 1 build")
    assert text.plan({"steps": [BUILD, new]}, Look()).endswith("at least about 1m 30s")
    assert text.plan({"steps": [HIT]}, Look()).endswith("1 step: 1 hit; nothing to do")


def test_a_build_without_news_is_one_line() -> None:
    hit = {"name": "fetch", "result": "hit", "because": ["up to date"], "seconds": 0.0, "peak_rss_mb": 0}

    assert text.sum_of([hit, hit]) == "up to date: 2 steps"


def test_variants_are_told_apart_by_what_they_do_not_share() -> None:
    variants = [
        {"overrides": ["model=gpt2", "quantization=none"], "package": "/a", "result": "built", "exit_code": 0},
        {"overrides": ["model=gpt2", "quantization=int8"], "package": None, "result": "failed", "exit_code": 4},
    ]
    steps = [{"result": "built"}, {"result": "hit"}]

    assert text.variants({"variants": variants, "steps": steps}, Look()).splitlines() == [
        "#  VARIANT            RESULT  PACKAGE",
        "1  quantization=none  built   /a",
        "2  quantization=int8  failed",
        "2 variants: 1 done, 1 failed; 2 unique steps, 1 run",
    ]


def test_short_times_are_in_milliseconds() -> None:
    shown = text.metrics({"ttft_s": 0.0123, "e2e_s": 2.5, "decode_tokens_per_s": None}, Look())

    assert shown.splitlines() == [
        "FIGURE               VALUE  UNIT",
        "time to first token   12.3  ms",
        "decode                   -  tokens/s",
        "end to end             2.5  s",
    ]


def test_several_runs_have_a_median_and_its_bounds() -> None:
    shown = text.metrics({"prefill_tokens_per_s": {"median": 1200.4, "min": 1000, "max": 1300, "runs": 5}}, Look())

    assert shown.splitlines()[1].split() == ["prefill", "1,200", "1,000", "1,300", "tokens/s"]


def test_reasons_stand_below_each_other() -> None:
    step = {"name": "export", "status": "build", "because": ["one", "two"]}

    assert text.why({"steps": [step]}, Look()).splitlines() == [
        "export  BUILD    because  one",
        "                          two",
    ]
