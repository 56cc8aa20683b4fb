"""Every family that sees gives transformers' tokens: its own processor, an image split over chunks, ragged rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from small_models import STEPS, asked_of, greedy_by_transformers

from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.models.images import read_image
from qeffbuild.models.processor import load_processor
from qeffbuild.package import Package
from qeffbuild.runtime.engine import Engine
from qeffbuild.spec.types import DecodingSpec

# Their images, or all of a prompt's tokens, see one another, so that a chunk has to hold them.
CHUNKS = {"gemma3": "specialization.prefill_seq_len=9", "paligemma": "specialization.prefill_seq_len=64"}

# One plain family, one that turns by a grid and stacks features, one whose images see themselves as a whole.
QUICK = ("llava", "qwen3_vl", "gemma3")
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in small_models.FAMILIES]


@pytest.mark.parametrize("family", CASES)
def test_a_family_that_sees_answers_as_transformers_does(
    family: str, folder_of: Callable[[str], Path], built: Callable[..., Any], tmp_path: Path
) -> None:
    prompts, images = asked_of(folder_of(family), family, tmp_path)
    package = built(
        family, "specialization.batch_size=2", CHUNKS.get(family, "specialization.prefill_seq_len=8")
    ).package

    engine = Engine.open(package)
    said = engine.generate(prompts, DecodingSpec(max_new_tokens=STEPS, ignore_eos=True), list(map(str, images)))

    expected = greedy_by_transformers(folder_of(family), family, prompts, images)
    assert [list(output.token_ids) for output in said.outputs] == expected


@pytest.mark.slow
def test_one_graph_for_vision_and_language_answers_as_two_do(
    folder_of: Callable[[str], Path], built: Callable[..., Any], tmp_path: Path
) -> None:
    prompts, images = asked_of(folder_of("llava"), "llava", tmp_path)
    decoding = DecodingSpec(max_new_tokens=STEPS, ignore_eos=True)

    one = Engine.open(built("llava", "model.kv_offload=false").package)
    said = one.generate(prompts, decoding, list(map(str, images)))

    assert [list(output.token_ids) for output in said.outputs] == greedy_by_transformers(
        folder_of("llava"), "llava", prompts, images
    )


@pytest.mark.slow
def test_weights_in_eight_bits_show_and_tell_nearly_the_same(
    folder_of: Callable[[str], Path], built: Callable[..., Any], tmp_path: Path
) -> None:
    prompts, images = asked_of(folder_of("llava"), "llava", tmp_path)
    whole = built("llava", "specialization.batch_size=2", "specialization.prefill_seq_len=8").package
    small = built(
        "llava", "specialization.batch_size=2", "specialization.prefill_seq_len=8", "quantization=int8"
    ).package
    processor = load_processor(folder_of("llava"), "llava")
    pixels = processor(text=prompts[:1], images=[[read_image(images[0])]], return_tensors="np")["pixel_values"]

    embedded = {package: look_at(package, pixels) for package in (whole, small)}
    said = Engine.open(small).generate(prompts, DecodingSpec(max_new_tokens=1), list(map(str, images)))

    error = np.abs(embedded[small] - embedded[whole]).max() / np.abs(embedded[whole]).max()
    assert 0 < error < 0.02
    expected = greedy_by_transformers(folder_of("llava"), "llava", prompts, images)
    assert [output.token_ids[0] for output in said.outputs] == [tokens[0] for tokens in expected]
    for graph in ("decoder", "vision"):
        assert (small / f"{graph}.data").stat().st_size < 0.9 * (whole / f"{graph}.data").stat().st_size


def look_at(package: Path, pixels: np.ndarray) -> np.ndarray:
    """What the vision graph makes of pixels."""
    opened = Package.open(package)
    session = open_session(opened, threads=1)
    inputs = {opened.signature("vision").inputs[0].name: pixels}
    (made,) = session.run("vision", inputs, session.allocate("vision", 1, 1)).values()
    return made
