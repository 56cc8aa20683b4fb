"""What a family's configuration can switch on: windows, scaled rotary tables, linear biases, scores by layer number."""

from __future__ import annotations

import numpy as np
import pytest

LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0 + 0.01 * i for i in range(48)],
    "long_factor": [1.0 + 0.2 * i for i in range(48)],
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
VARIANTS = {
    "a rotary table that stretches": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 8}),
    "linear biases": ("falcon", {"alibi": True, "new_decoder_architecture": False, "multi_query": False}),
    "scores scaled by layer number": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "short and long rotary factors": ("phi3", {"rope_parameters": LONG, "max_position_embeddings": 64}),
    "llama 3 rotary scaling": ("llama", {"rope_parameters": LLAMA3, "num_key_value_heads": 8}),
    "a sliding window in some layers": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    "several key heads": ("gpt_bigcode", {"multi_query": False}),
}
ROWS = ([17, 230, 41, 99, 3, 180, 64, 7, 121, 55], [140, 9, 77])
DECODED = [101, 35, 222, 60, 143, 12, 90, 33]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_says_what_pytorch_says(exported, variant):
    model_type, changes = VARIANTS[variant]
    made = exported(model_type, **changes)

    for row in ROWS:
        logits, states = made.step(made.states(1), [row], [0])
        said = [logits[0]]
        for step, token in enumerate(DECODED):
            logits, states = made.step(states, [[token]], [len(row) + step])
            said.append(logits[0])

        wanted = np.stack([made.cached_reference(row, DECODED)]).squeeze(0)
        assert np.abs(np.stack(said) - wanted).max() / wanted.std() < 1e-4
