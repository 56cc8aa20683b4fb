"""Configurations other than the small ones that the page was made with: by hand, drawn, and as large as they come."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, made, named, text
from check import LONG, TOLERANCE, check, check_configuration
from draw import drawn
from vary import IMPOSSIBLE, NOT_CAUSAL, varied_once
from whole import exported_whole

# A rope that stretches, heads that are no power of two under linear biases, every expert chosen, a window of one.
QUICK = {2, 7, 15}
WINDOWED = next(number for number, (family, _) in enumerate(CASES) if family == "gpt_neo")
# From here on: tokens or blocks that an indexer chooses, and windows of many tokens, of which a short text has none.
CHOOSING = next(number for number, (family, _) in enumerate(CASES) if family == "deepseek_v32")
DRAWN = ("llama", "gemma3_text", "mixtral", "falcon", "deepseek_v3", "qwen3_next", "mamba2", "bloom")
WHOLE = ("deepseek_v3", "stablelm", "bart", "jamba")


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.long, id=named(n)) for n in range(len(CASES))],
)
def test_an_odd_configuration_says_what_pytorch_says(number, tmp_path):
    family = CASES[number][0]
    long = LONG if number >= CHOOSING else None

    said = check_configuration(family, lambda: made(number), tmp_path, text(number), as_packaged=True, long=long)

    assert said.stage == "done", said.reason
    assert said.holds(), said.errors


@pytest.mark.slow
def test_what_is_chosen_for_a_token_is_chosen_in_longer_texts_than_the_trace_saw(tmp_path):
    said = check_configuration("minimax_m3_vl_text", lambda: made(CHOOSING + 1), tmp_path, long=LONG)

    assert said.states == ["idx_keys", "key", "value"]
    assert said.errors["long"] < TOLERANCE
    assert said.holds(), said.errors


def test_gpt_neo_keeps_its_keys_and_values_in_spite_of_its_table_of_masks(tmp_path):
    said = check_configuration("gpt_neo", lambda: made(WINDOWED), tmp_path, text(WINDOWED), as_packaged=True)

    assert said.mechanism == "attention interface"
    assert said.holds(), said.errors


@pytest.mark.parametrize(
    "model_type",
    ["openai-gpt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("xlm", "xlnet", "xmod", "roformer"))],
)
def test_a_family_whose_cache_is_none_or_of_no_use_keeps_its_keys_and_values(model_type, tmp_path):
    said = check(model_type, tmp_path)

    assert said.states == ["key", "value"]
    assert said.holds(), said.errors


@pytest.mark.slow
def test_inkling_grows_its_queries_by_true_positions(tmp_path):
    number = next(number for number, (family, _) in enumerate(CASES) if family == "inkling_text")
    said = check_configuration(
        "inkling_text", lambda: made(number), tmp_path, text(number), as_packaged=True, long=LONG
    )

    assert said.states == ["conv", "key", "value"]
    assert said.holds(), said.errors


def test_a_draw_is_the_same_wherever_it_is_drawn():
    config, words = drawn("llama", 5)

    assert (config, words) == drawn("llama", 5)
    assert config != drawn("llama", 6)[0]
    assert max(words.lengths) + len(words.decoded) <= words.ctx_len


@pytest.mark.long
@pytest.mark.parametrize("model_type", DRAWN)
@pytest.mark.parametrize("number", range(3))
def test_a_drawn_configuration_says_what_pytorch_says(model_type, number):
    tries = (varied_once(model_type, number, attempt) for attempt in range(8))
    said = next(said for said in tries if said.stage not in IMPOSSIBLE and NOT_CAUSAL not in said.reason)

    assert said.stage == "done", said.reason
    assert said.holds(), said.errors


@pytest.mark.long
@pytest.mark.parametrize("model_type", WHOLE)
def test_a_family_exports_in_its_own_size(model_type, tmp_path):
    report = exported_whole(model_type, tmp_path)

    assert report.self_check_error < 1e-4
    assert report.layers_traced <= 5
