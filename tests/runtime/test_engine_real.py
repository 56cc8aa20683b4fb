"""The engine over a real package: the demo model's tokens are PyTorch's, in chunks, ragged rows and refilled slots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qeffbuild
from qeffbuild import api
from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.evaluate import as_json, evaluate, read_text, reference
from qeffbuild.spec.types import DecodingSpec

DEMO = Path(qeffbuild.__file__).parent / "models" / "demo"
PROMPTS = [
    "In the beginning",
    "A",
    "And the king said unto the people that were with him, Go ye up to the hill",
    "The lord",
]


@pytest.fixture(scope="module")
def engine_of(cache: Path) -> Callable[..., Engine]:
    """engine_of("specialization.ctx_len=48", ...) -> the demo model, built for these shapes and opened."""

    def make(*shapes: str) -> Engine:
        return Engine.open(api.build(api.compose(["model=demo", *shapes], conf_dirs=())).package, threads=1)

    return make


@pytest.fixture(scope="module")
def torch_answers() -> Callable[[int], list[list[int]]]:
    """What transformers' own greedy generation says to PROMPTS, one at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO)

    def answer(tokens: int) -> list[list[int]]:
        found = []
        for prompt in PROMPTS:
            ids = tokenizer(prompt, return_tensors="pt")
            with torch.inference_mode():
                said: Any = model.generate(**ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
            found.append(said[0, ids["input_ids"].shape[1] :].tolist())
        return found

    return answer


@pytest.mark.parametrize(
    "shapes",
    [
        ("specialization.batch_size=1", "specialization.prefill_seq_len=4"),
        ("specialization.batch_size=3", "specialization.prefill_seq_len=5"),
        ("specialization.full_batch_size=2", "specialization.prefill_seq_len=8"),
    ],
    ids=["one row", "ragged rows", "refilled slots"],
)
def test_greedy_tokens_are_pytorchs_in_every_batch_and_in_the_next_call_too(engine_of, torch_answers, shapes):
    engine = engine_of("specialization.ctx_len=64", *shapes)
    decoding = DecodingSpec(max_new_tokens=12)

    first = engine.generate(PROMPTS, decoding).outputs
    second = engine.generate(PROMPTS[::-1], decoding).outputs

    assert [list(output.token_ids) for output in first] == torch_answers(12)
    assert second == first[::-1]
    assert first[0].text == engine.tokenizer.decode(first[0].token_ids)


def test_an_evaluation_agrees_with_pytorch_on_text_that_the_model_never_saw(engine_of):
    engine = engine_of("specialization.ctx_len=64", "specialization.batch_size=3", "specialization.prefill_seq_len=5")

    text = read_text(engine, DEMO / "heldout.txt", max_tokens=300)
    found = as_json(evaluate(engine, text), reference(DEMO, text, threads=1))

    assert found["perplexity"] == pytest.approx(found["reference_perplexity"], rel=1e-4)
    assert found["tokens"] == 299
    assert found["token_agreement"] >= 0.99  # equal logits may round to different sides


def test_a_sampled_answer_is_the_same_alone_and_beside_others(engine_of):
    engine = engine_of("specialization.ctx_len=64", "specialization.batch_size=3", "specialization.prefill_seq_len=5")
    decoding = DecodingSpec(max_new_tokens=10, temperature=0.9, top_p=0.9, seed=4)

    together = engine.generate(PROMPTS, decoding).outputs
    alone = [engine.generate(prompt, decoding).outputs[0] for prompt in PROMPTS]

    assert list(together) == alone
