"""Every family gives PyTorch's logits and greedy tokens: whole and chunked prefill, ragged rows, decoding.

Each has three layers of every kind, of which one is traced; the others are copies of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

# As released; the defaults, all one, leave attention so sharp that rounding shows.
GRANITE = {
    "attention_multiplier": 0.0078125,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 16.0,
}
FAMILIES = {
    "gpt2": {},
    "gptj": {"n_embd": 1024, "rotary_dim": 16},
    "codegen": {"n_embd": 1024, "rotary_dim": 16},
    "gpt_bigcode": {},
    "mpt": {},
    "llama": {"num_key_value_heads": 8},
    "mistral": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "falcon": {},
    "phi": {},
    "phi3": {},
    "qwen2": {},
    "qwen3": {},
    "mixtral": {},
    "qwen3_moe": {},
    "granite": GRANITE,
    "granitemoe": GRANITE,
    "olmo2": {},
    "starcoder2": {},
    "gpt_oss": {},
    "arcee": {},
}
TOLERANCE = 1e-4
ROWS = ([17, 230, 41, 99, 3, 180, 64, 7, 121, 55, 210, 33, 87], [140, 9, 77, 201, 18])
DECODED = [101, 35, 222, 60, 143, 12]


# One plain family, one without attention interface, one with two kinds of layer, one with experts.
QUICK = ("llama", "falcon", "gemma2", "qwen3_moe")
# A dozen stand for all: what is left out here has the form of one of them, and is run by `make long`.
DOZEN = (
    *QUICK,
    *("gpt2", "gpt_bigcode", "mpt", "gemma3_text", "phi3", "qwen3", "mixtral", "gpt_oss"),
)


def cases(quick: tuple[str, ...]) -> list[Any]:
    """Every family, marked by how long one waits for it."""
    marks = {
        name: [] if name in quick else [pytest.mark.slow] if name in DOZEN else [pytest.mark.long] for name in FAMILIES
    }
    return [pytest.param(name, marks=marks[name]) for name in FAMILIES]


@pytest.mark.parametrize("model_type", cases(QUICK))
def test_an_exported_model_says_what_pytorch_says(exported, model_type):
    made = exported(model_type, **FAMILIES[model_type])
    rows = [[*row, *DECODED] for row in ROWS]
    wanted = [made.reference(row) for row in rows]
    lengths = [len(row) for row in ROWS]

    # All at once, the shorter row padded.
    states = made.states(2)
    logits, states = made.step(states, ROWS, [0, 0])
    said = [logits]
    for step, token in enumerate(DECODED):
        logits, states = made.step(states, [[token], [token]], [length + step for length in lengths])
        said.append(logits)
    # In chunks of five, the second and third of which hold nothing for the shorter row.
    chunked = made.states(2)
    for start in range(0, lengths[0], 5):
        last, chunked = made.step(chunked, [row[start : start + 5] for row in ROWS], [start, start])

    assert (made.report.all_layers_because, made.report.decomposed_because) == (None, None)
    assert made.report.layers_traced <= made.report.layers // 2
    for row, length in enumerate(lengths):
        ours = np.stack([logits[row] for logits in said])
        assert relative_error(ours, wanted[row][length - 1 :]) < TOLERANCE
        assert ours.argmax(-1).tolist() == wanted[row][length - 1 :].argmax(-1).tolist()
    assert relative_error(last[0], wanted[0][lengths[0] - 1]) < TOLERANCE
    again, _ = made.step(chunked, [DECODED[:1]] * 2, lengths)
    assert relative_error(again, said[1]) < TOLERANCE


def relative_error(ours: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(ours - wanted).max() / wanted.std())
