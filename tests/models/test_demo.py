from __future__ import annotations

import math

from qeffbuild.models import DEMO, load_tokenizer, read_facts
from qeffbuild.models.skeleton import compare


def test_the_demo_model_is_small_and_whole() -> None:
    facts = read_facts(DEMO)

    found = compare(DEMO, facts)
    assert (found.missing, found.unexpected, found.mismatched) == ((), (), ())
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 8_000_000
    assert {tensor.dtype for tensor in facts.tensors.values()} == {"float16"}


def test_the_demo_tokenizer_gives_every_text_back() -> None:
    tokenizer = load_tokenizer(DEMO)

    for text in ("In the beginning God created the heaven and the earth.", "  two  spaces\n", "naïve 日本 🙂"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_demo_model_predicts_text_that_it_was_not_trained_on() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    text = (DEMO / "heldout.txt").read_text()[:1500]
    tokens = load_tokenizer(DEMO)(text, return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()

    with torch.inference_mode():
        loss = model(tokens, labels=tokens).loss.item()

    # A model that only knows how often each token occurs is above 400; a broken export of this one is above 1000.
    assert math.exp(loss) < 120
