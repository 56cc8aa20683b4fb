"""Attention in blocks as a pass: the same answers on every backend that takes it, sizes as asked for or as they fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chain
import numpy as np
import pytest
import small_decoder as small
from played_device import ANSWER, Device, generate

from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.errors import ModelError, SpecError
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.ops import ATTENTION, symbolic
from qeffbuild.plan import Plan
from qeffbuild.signature import IoSignature

SHAPES = {"batch_size": 3, "prefill_seq_len": 4, "ctx_len": 32}
SAID: dict[str, Any] = {
    "name": "block_attention",
    "axes": "bhqkv",
    "num_kv_blocks": 3,
    "num_q_blocks": 2,
    "head_block_size": 2,
    "num_batch_blocks": 2,
    "skip_kv": True,
    "shapes": SHAPES,
}
UNSAID = dict.fromkeys(("num_kv_blocks", "num_q_blocks", "head_block_size", "num_batch_blocks"))
PROMPTS = ([3, 1, 4, 1, 5, 9, 2], [27, 18], [11, 12, 13, 14, 15])
FORMS = {
    "plain": (Form(), 3, {}),
    "continuous": (Form(continuous_batching=True), 5, {"batch_index": np.array([[4], [0], [2]])}),
    "lengths": (Form(comp_ctx_lengths=True), 3, {"comp_ctx_lengths": np.zeros(small.CONTEXT - 1, np.int64)}),
}


@pytest.fixture(scope="module")
def decoder() -> small.SmallDecoder:
    return small.SmallDecoder()


@pytest.fixture
def neutral(decoder: small.SmallDecoder, tmp_path: Path) -> Path:
    """The folder of a neutral graph that no exporter had to make."""
    folder = tmp_path / "export"
    folder.mkdir()
    model, signature = small.neutral_graph(decoder)
    save_graph(model, folder / "graph.onnx")
    signature.save(folder / "io.json")
    (folder / "export.json").write_text("{}")
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_the_device_answers_as_before(decoder: small.SmallDecoder, neutral: Path, tmp_path: Path, form: str) -> None:
    asked, rows, more = FORMS[form]
    out = chain.transformed(neutral, tmp_path / "transform", SAID)
    model = load_graph(out / "graph.onnx")

    device = Device(model, lower(model, IoSignature.load(out / "io.json"), asked), rows, tmp_path)

    assert "Loop" in {node.op_type for node in model.graph}
    assert generate(device, PROMPTS, 4, **more) == [decoder.greedy(list(prompt), ANSWER) for prompt in PROMPTS]


@pytest.mark.slow
def test_a_family_with_windows_and_capped_scores_answers_as_before(tmp_path: Path) -> None:
    fetch, export = chain.exported("gemma2", tmp_path)
    out = chain.transformed(export, tmp_path / "transform", SAID)

    package = chain.packaged(fetch, out, tmp_path)

    assert chain.answers(package) == chain.by_pytorch(chain.reference(fetch))


@pytest.mark.parametrize(
    ("axes", "shapes", "wanted"),
    [
        ("kv", {"ctx_len": 1 << 17, "prefill_seq_len": 128, "batch_size": 1}, {"num_kv_blocks": 32}),
        ("hqkv", {"ctx_len": 1 << 17, "prefill_seq_len": 1024, "batch_size": 1}, {"num_kv_blocks": 256}),
        ("q", {"ctx_len": 1 << 15, "prefill_seq_len": 128, "batch_size": 1}, {"num_q_blocks": 8}),
        ("bhqkv", SHAPES, {}),
    ],
)
def test_sizes_that_nobody_names_keep_scores_within_fast_memory(
    neutral: Path, tmp_path: Path, axes: str, shapes: dict[str, int], wanted: dict[str, int]
) -> None:
    out = chain.transformed(neutral, tmp_path / "transform", {**SAID, **UNSAID, "axes": axes, "shapes": shapes})

    (said,) = json.loads((out / "transform.json").read_text())["passes"]
    whole = {"num_batch_blocks": 1, "head_block_size": small.HEADS, "num_q_blocks": 1, "num_kv_blocks": 1}
    assert said["blocks"] == [{**whole, **wanted, "skip_kv": True}]


def test_blocks_that_split_groups_unevenly_are_refused(neutral: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="head_block_size: blocks of 3 of 4 heads") as caught:
        chain.transformed(neutral, tmp_path / "transform", {**SAID, "head_block_size": 3})

    assert caught.value.hint == "transforms.head_block_size: one of 1, 2"


def test_a_model_that_works_out_its_attention_itself_is_refused(neutral: Path, tmp_path: Path) -> None:
    model = load_graph(neutral / "graph.onnx")
    for node in symbolic(model.graph, ATTENTION)[:1]:
        node.op_type, node.domain = "Own", ""
    save_graph(model, neutral / "graph.onnx")

    with pytest.raises(ModelError, match="1 of 2 layers work out their attention themselves"):
        chain.transformed(neutral, tmp_path / "transform", SAID)


def test_the_plan_hands_on_what_was_asked(plan_of: Callable[..., Plan]) -> None:
    words = ("transforms.blocking_mode=hkv", "transforms.num_kv_blocks=4", "specialization.ctx_len=256")

    plan = plan_of("model=llama", "model.scale=tiny", *words)

    shapes = {"batch_size": 1, "prefill_seq_len": 32, "ctx_len": 256}
    assert plan["transform"].params["passes"] == [
        {**SAID, **UNSAID, "axes": "hkv", "num_kv_blocks": 4, "skip_kv": True, "shapes": shapes}
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("transforms.num_q_blocks=2",), "transforms.num_q_blocks: blocking_mode=none has no q in it"),
        (
            ("transforms.blocking_mode=kv", "transforms.head_block_size=2"),
            "transforms.head_block_size: blocking_mode=kv has no h in it",
        ),
        (
            ("backend=qaic", "transforms.blocking_mode=kv", "backend.sub_functions=true"),
            "backend.sub_functions: a function cannot hold the loops of transforms.blocking_mode",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(spec_of: Any, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of("model=gpt2", *words)

    assert caught.value.message == said
