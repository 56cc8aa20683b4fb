"""Words of recorded kinds of requests that no handed-over case has -> the keys of ours that say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.golden.replay import translated

LM, SEES, HEARS = "QEFFAutoModelForCausalLM", "QEFFAutoModelForImageTextToText", "QEFFAutoModelForSpeechSeq2Seq"
HEADS = {"qaic_config": {"replicate_kv_heads": True}}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # what is called: class, loading, compiling, configuration -> keys
    "heads of gpt2": (LM, HEADS, {"num_devices": 4}, {"n_head": 6}, {"model.kv_head_replication": 2}),
    "heads of mpt": (LM, HEADS, {"num_devices": 4}, {"n_heads": 4}, {"model.kv_head_replication": 1}),
    "one head": (
        LM, HEADS, {"num_devices": 4}, {"n_head": 4, "multi_query": True}, {"model.kv_head_replication": 4},
    ),
    "two programs": (
        SEES, {"kv_offload": True}, {"img_size": 336, "max_num_images": 2}, {},
        {"model.kv_offload": True, "specialization.img_size": 336, "specialization.max_num_images": 2},
    ),
    "images that are not square": (
        SEES, {}, {"height": 354, "width": 536}, {}, {"specialization.img_size": [354, 536], "backend.extra_args": None},
    ),
    "chunks": (
        LM, {}, {"prefill_only": True, "enable_chunking": True, "mdp_strategy": "equal_split"}, {},
        {"specialization.prefill_only": True, "backend.extra_args": None},
    ),
    "lengths of prefill alone": (
        LM, {"qaic_config": {"ccl_enabled": True}}, {"prefill_only": True, "ctx_len": 4096}, {},
        {"specialization.comp_ctx_lengths_prefill": [4096], "specialization.comp_ctx_lengths_decode": None},
    ),
    "drafts said twice": (
        LM, {}, {"num_speculative_tokens": [3, 1, 3]}, {}, {"specialization.num_speculative_tokens": [1, 3]},
    ),
    "sound": (HEARS, {}, {}, {}, {"specialization.ctx_len": 150}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_call_says_is_said_by_keys(name: str) -> None:
    api, loading, compiling, config, expected = CASES[name]

    made = translated({"api": api, "from_pretrained": loading, "compile": compiling}, Path("model"), config)

    assert {key: made.values.get(key) for key in expected} == expected
