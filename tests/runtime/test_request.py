"""The limits of a package are those that its manifest says."""

from __future__ import annotations

from typing import Any

import pytest

from qeffbuild.runtime.request import Limits


def manifest(**specialization: Any) -> dict[str, Any]:
    shape = {"batch_size": 3, "prefill_seq_len": 8, "ctx_len": 64, "full_batch_size": None, "continuous_batching": None}
    return {
        "specialization": {**shape, **specialization},
        "model": {"vocab_size": 100, "eos_token_id": [7, 9]},
    }


@pytest.mark.parametrize(
    ("specialization", "slots", "is_continuous"),
    [
        ({}, 3, False),
        ({"full_batch_size": 5}, 5, True),
        ({"full_batch_size": 5, "continuous_batching": True}, 5, True),
        ({"full_batch_size": 5, "continuous_batching": False}, 3, False),
        ({"continuous_batching": True}, 3, True),
    ],
)
def test_slots_are_rows_of_a_batch_or_of_continuous_batching(specialization, slots, is_continuous):
    limits = Limits.from_manifest(manifest(**specialization))

    assert limits == Limits(
        slots=slots,
        prefill_seq_len=8,
        ctx_len=64,
        vocab_size=100,
        eos_token_ids=frozenset({7, 9}),
        is_continuous=is_continuous,
    )


def test_a_model_without_an_end_of_text_token_never_ends_by_one():
    said = manifest()
    said["model"]["eos_token_id"] = []

    assert Limits.from_manifest(said).eos_token_ids == frozenset()
