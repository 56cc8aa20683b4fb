"""Checkpoints of a few families, built, verified and run by the command line; `tests/coverage/built.py` does so for all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from built import Asked, built_apart
from judged import OTHERWISE

# A text part by itself; windows of other sizes; positions behind padding; states; latents; biases; no cache; rounding amplified.
FAMILIES = ("emu3", "dots3_note", "camembert", "mamba2", "deepseek_v3", "bloom", "xlm", "zamba")
ASKED = {
    "narrow checkpoint": Asked(dtype="bfloat16"),
    "weights as transformers draws them": Asked(init=True),
    "bytes": Asked(words=("quantization=int8", "backend.profile=fast"), goal="lower"),
    "documents": Asked(words=("backend=qaic",), goal="render"),
}


def _one(model_type: str, asked: Asked) -> dict[str, Any]:
    (said,) = built_apart(model_type, [asked], 240.0)
    return said


@pytest.mark.long
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_checkpoint_builds_verifies_and_says_what_transformers_says(model_type):
    said = _one(model_type, Asked())

    assert said["stage"] == "done", said["reason"]
    assert said["reason"] == (OTHERWISE if model_type == "camembert" else "")


@pytest.mark.long
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("model_type", ["qwen3", "gpt2", "jamba"])
def test_so_it_does_in_other_ways(model_type, asked):
    said = _one(model_type, asked)

    assert said["stage"] == "done", said["reason"]


@pytest.mark.long
def test_a_model_that_cannot_be_built_is_refused_with_the_line_that_stops_it():
    said = _one("blt", Asked())

    assert said["stage"] == "build"
    assert "exit 2, model.unsupported: blt: " in said["reason"]
    assert "modeling_blt.py:" in said["reason"]
