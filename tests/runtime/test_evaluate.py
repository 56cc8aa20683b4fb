"""Perplexity scores each token once, with the context that its window gives, and equals PyTorch's on the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qeffbuild.errors import RunError
from qeffbuild.runtime.evaluate import Evaluation, as_json, continuations, evaluate, read_text, reference, windows
from qeffbuild.runtime.evaluate import Text as Predicted
from qeffbuild.spec.types import DecodingSpec

SENTENCE = "the quick brown fox jumps over the lazy dog and then once more over the other dogs of the house"


@given(length=st.integers(2, 300), size=st.integers(2, 40), data=st.data())
def test_windows_score_every_token_but_the_first_once_and_in_order(length, size, data):
    stride = data.draw(st.integers(1, size - 1))

    found = windows(length, size, stride)

    assert [token for window in found for token in range(window.scored, window.end)] == list(range(1, length))
    assert all(window.begin < window.scored and window.end - window.begin <= size for window in found)


@pytest.mark.parametrize(("slots", "width", "stride"), [(1, 4, None), (3, 5, 7), (2, 32, 31), (4, 1, 1)])
def test_perplexity_is_that_of_the_model_without_a_cache(toy, tmp_path, slots, width, stride):
    engine, model, _ = toy(slots=slots, prefill_seq_len=width, ctx_len=32)
    (tmp_path / "text").write_text(SENTENCE)

    text = read_text(engine, tmp_path / "text", stride=stride)
    found = evaluate(engine, text)

    costs, choices = [], []
    for window in text.windows:
        for place in range(window.scored, window.end):
            logits = model.logits(text.token_ids[window.begin : place]).astype(np.float64)
            costs.append(np.log(np.exp(logits).sum()) - logits[text.token_ids[place]])
            choices.append(logits.argmax())
    assert found.perplexity == pytest.approx(np.exp(np.mean(costs)), rel=1e-5)
    assert found.tokens == len(SENTENCE) - 1
    assert found.choices.tolist() == choices


def test_generation_after_an_evaluation_is_as_ever(toy, tmp_path):
    engine, model, _ = toy(slots=2)
    (tmp_path / "text").write_text(SENTENCE)
    evaluate(engine, read_text(engine, tmp_path / "text"))

    output = engine.generate([[1, 2, 3]], DecodingSpec(max_new_tokens=5)).outputs[0]

    assert list(output.token_ids) == model.greedy([1, 2, 3], 5)


def test_the_document_says_how_often_both_choose_the_same_token():
    ours, theirs = Evaluation(9.0, 4, np.array([1, 2, 3, 4])), Evaluation(8.0, 4, np.array([1, 2, 3, 5]))

    assert as_json(ours, theirs) == {
        "perplexity": 9.0,
        "tokens": 4,
        "reference_perplexity": 8.0,
        "token_agreement": 0.75,
    }
    assert as_json(ours)["token_agreement"] is None


def test_max_tokens_shortens_the_text(toy, tmp_path):
    engine, _, _ = toy()
    (tmp_path / "text").write_text(SENTENCE)

    assert evaluate(engine, read_text(engine, tmp_path / "text", max_tokens=20)).tokens == 19


@pytest.mark.parametrize("content", [b"", b"a", b"\xff\xfe"])
def test_a_text_that_predicts_nothing_is_refused(toy, tmp_path, content):
    (tmp_path / "text").write_bytes(content)

    with pytest.raises(RunError) as error:
        read_text(toy()[0], tmp_path / "text")

    assert error.value.kind == "run.eval"


@pytest.mark.parametrize("stride", [0, 32])
def test_a_stride_that_leaves_gaps_is_refused(toy, tmp_path, stride):
    with pytest.raises(RunError) as error:
        read_text(toy(ctx_len=32)[0], tmp_path / "text", stride=stride)

    assert error.value.message == f"stride is {stride}, but ctx_len is 32"


def test_a_missing_text_is_refused(toy, tmp_path):
    with pytest.raises(RunError) as error:
        read_text(toy()[0], tmp_path / "none")

    assert error.value.kind == "run.eval"


def test_the_reference_is_the_loss_that_transformers_computes(tmp_path: Path):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=50, n_positions=32)).eval()
    model.save_pretrained(tmp_path)
    token_ids = np.random.default_rng(0).integers(0, 50, 30)

    found = reference(tmp_path, Predicted(token_ids, windows(30, 32, 16)))

    ids = torch.from_numpy(token_ids[None])
    with torch.inference_mode():
        said = model(ids, labels=ids)
    assert found.perplexity == pytest.approx(float(said.loss.exp()), rel=1e-5)
    assert found.choices.tolist() == said.logits[0, :-1].argmax(-1).tolist()


def test_a_continuation_costs_what_the_model_says_of_each_of_its_tokens(toy):
    engine, model, _ = toy(slots=2, prefill_seq_len=4, ctx_len=16)
    best = model.greedy([1, 2, 3], 2)
    pairs = [([1, 2, 3], best), ([4], [5, 6]), ([7, 8, 9, 10, 11, 12], [3])]

    found = list(continuations(engine, pairs))

    for (context, wanted), (score, is_greedy) in zip(pairs, found, strict=True):
        cost = 0.0
        for place, token in enumerate(wanted):
            logits = model.logits([*context, *wanted[:place]]).astype(np.float64)
            cost += logits[token] - np.log(np.exp(logits).sum())
        assert score == pytest.approx(cost, rel=1e-5)
        assert is_greedy == (model.greedy(context, len(wanted)) == list(wanted))
    assert found[0][1]
