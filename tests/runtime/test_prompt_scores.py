"""Logits that prefill keeps say how likely each token of a prompt was, and change no answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from qeffbuild.spec.types import DecodingSpec

PROMPTS = [[5, 9, 2, 40, 33, 7], [11], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [60, 61]]
DECODING = DecodingSpec(max_new_tokens=3)
CHUNK = 4


def log_shares(model: Any, prompt: Sequence[int]) -> list[float | None]:
    """Of each token but the first, given those before it."""
    found: list[float | None] = [None]
    for place in range(1, len(prompt)):
        logits = model.logits(prompt[:place]).astype(np.float64)
        found.append(float(logits[prompt[place]] - np.log(np.exp(logits).sum())))
    return found


def told(prompt: Sequence[int], keep: int) -> list[int]:
    """Places of a prompt that are foretold by the last `keep` tokens of its chunks."""
    chunks = [(start, min(start + CHUNK, len(prompt))) for start in range(0, len(prompt), CHUNK)]
    kept = [place for start, end in chunks for place in range(max(start, end - (keep or CHUNK)), end)]
    return [place + 1 for place in kept if place + 1 < len(prompt)]


@pytest.mark.parametrize("keep", [0, 2, 3])
@pytest.mark.parametrize("is_continuous", [False, True])
def test_each_token_of_a_prompt_has_its_probability(keep: int, is_continuous: bool, toy: Callable[..., Any]) -> None:
    engine, model, _ = toy(slots=2, prefill_seq_len=CHUNK, logits_to_keep=keep, is_continuous=is_continuous)

    outputs = engine.generate(PROMPTS, DECODING).outputs

    for prompt, output in zip(PROMPTS, outputs, strict=True):
        expected, found = log_shares(model, prompt), output.prompt_logprobs
        assert [place for place, score in enumerate(found) if score is not None] == told(prompt, keep)
        assert all(math.isclose(found[place], expected[place], rel_tol=1e-5) for place in told(prompt, keep))
        assert list(output.token_ids) == model.greedy(prompt, 3)
        assert output.as_json()["prompt_logprobs"] == found


def test_nothing_is_said_of_a_prompt_whose_logits_are_not_kept(toy: Callable[..., Any]) -> None:
    engine, _, _ = toy()

    (output,) = engine.generate([PROMPTS[0]], DECODING).outputs

    assert "prompt_logprobs" not in output.as_json()
