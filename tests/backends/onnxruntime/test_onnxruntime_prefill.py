"""A package with a second form of its graph: prompts go through it, decoding and scoring do not; both share a cache."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from decoder_steps import build, generate
from neutral_decoder import Decoder, make_decoder

from qeffbuild.backends.onnxruntime import loading
from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.products import products
from qeffbuild.graph.saturation import saturates
from qeffbuild.package import Package

WORDS = {"method": "int8", "bits": 8, "block_size": 16, "symmetric": True, "keep": []}
PROMPT = list(range(1, 25))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return make_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def fast(decoder: Decoder) -> Package:
    return build(decoder, decoder.checkpoint.parent / "fast", quantization=WORDS, prefill=True)


@pytest.fixture(scope="module")
def plain(decoder: Decoder) -> Package:
    return build(decoder, decoder.checkpoint.parent / "plain", quantization=WORDS)


def say(package: Package, tokens: list[int], then: int) -> tuple[np.ndarray, np.ndarray]:
    """The logits of a prompt's last token, and of one token after it."""
    session = open_session(package, threads=1)
    states = session.allocate("decoder", 1, 32)
    last = np.array([[len(tokens) - 1]])
    feed = {"input_ids": np.array([tokens]), "position_ids": np.arange(len(tokens))[None], "logits_index": last}
    first = session.run("decoder", feed, states)["logits"][0, 0].copy()
    feed = {"input_ids": np.array([[then]]), "position_ids": last + 1, "logits_index": np.array([[0]])}
    return first, session.run("decoder", feed, states)["logits"][0, 0].copy()


def test_a_prompt_is_read_in_the_form_for_prompts_and_decoded_from_the_same_cache(
    decoder: Decoder, fast: Package, plain: Package
) -> None:
    ours, others = say(fast, PROMPT, 30), say(plain, PROMPT, 30)

    truth = decoder.logits([*PROMPT, 30])[-2:]
    for found, other, wanted in zip(ours, others, truth, strict=True):
        assert np.sqrt(np.square(found - wanted).mean()) < 0.08 * wanted.std()
        assert (found != other).any()


def test_values_are_nearer_in_two_numbers(decoder: Decoder, tmp_path: Path, fast: Package) -> None:
    two = build(decoder, tmp_path, quantization=WORDS, prefill=True, values="finer")

    truth = decoder.logits([*PROMPT, 30])[-2]
    lost = [np.square(say(package, PROMPT, 30)[0] - truth).mean() for package in (two, fast)]
    assert lost[0] < lost[1]


def test_a_head_whose_weight_another_product_reads_first_has_its_own_form(decoder: Decoder, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    shutil.copytree(decoder.exported, exported)
    model = load_graph(exported / "graph.onnx")
    head = list(products(model.graph))[-1]
    before = ir.node("MatMul", [head.x, head.weight], name="before")
    spread = ir.node("ReduceMean", [before.outputs[0]], {"keepdims": 1}, name="spread")
    added = ir.node("Add", [head.x, spread.outputs[0]], name="added")
    head.node.replace_input_with(0, added.outputs[0])
    model.graph.insert_before(head.node, [before, spread, added])
    save_graph(model, exported / "graph.onnx")
    twice = replace(decoder, exported=exported)

    plain, fast = (
        say(build(twice, tmp_path / str(prefill), quantization=WORDS, prefill=prefill), PROMPT, 30)[0]
        for prefill in (False, True)
    )
    assert np.sqrt(np.square(plain - fast).mean()) < 0.08 * plain.std()


def test_the_form_for_prompts_says_the_same_where_its_products_have_to_be_unsigned(
    fast: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_it_is = say(fast, PROMPT, 30)
    monkeypatch.setattr(loading, "saturates", lambda: not saturates())

    if saturates():  # then it was unsigned before, and what the other form says is wrong
        assert (say(fast, PROMPT, 30)[0] != as_it_is[0]).any()
    else:
        np.testing.assert_allclose(say(fast, PROMPT, 30), as_it_is, rtol=1e-4, atol=1e-4)


def test_a_short_prompt_is_read_by_the_weights_that_decode(fast: Package, plain: Package) -> None:
    np.testing.assert_array_equal(say(fast, PROMPT[:23], 30), say(plain, PROMPT[:23], 30))


def test_logits_of_every_token_are_those_of_the_weights_that_decode(fast: Package, plain: Package) -> None:
    one, two = (generate(open_session(package, threads=1), [PROMPT, PROMPT[:3]], 32, 32) for package in (fast, plain))

    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left, right)


def test_what_both_forms_read_is_stored_once(fast: Package) -> None:
    sizes = {path.name: path.stat().st_size for path in fast.path.glob("*.data")}

    assert sorted(sizes) == ["decoder.data", "decoder.prefill.data"]
    prefill = fast.path / "decoder.prefill.onnx"
    assert b"decoder.data" in prefill.read_bytes()
    assert fast.manifest["graphs"]["decoder"]["prefill"] == prefill.name
    assert fast.manifest["graphs"]["decoder"]["prefill_has_blocks"] is False
