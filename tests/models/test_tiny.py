from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from qeffbuild.errors import ModelError
from qeffbuild.models import DEMO, load_tokenizer, read_facts, tiny
from qeffbuild.models.skeleton import compare
from qeffbuild.models.tasks import CAUSAL, classes
from qeffbuild.models.tiny import TOKENIZER_SHA256, tiny_config, write_tiny

# One of each kind: learned positions, ALiBi, grouped heads, merged experts, windows, sinks, a recurrent state.
FAMILIES = ("gpt2", "mpt", "llama", "mixtral", "gemma2", "gpt_oss", "mamba", "dots3_note")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_tiny_model_is_whole_and_its_greedy_tokens_vary(model_type: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    write_tiny(tmp_path, model_type, seed=0, tokenizer=DEMO)

    facts = read_facts(tmp_path)
    found = compare(tmp_path, facts)
    assert (found.missing, found.unexpected, found.mismatched) == ((), (), ())
    assert facts.num_hidden_layers == 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompt = load_tokenizer(tmp_path)("In the beginning", return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert len(set(tokens.tolist())) >= 3


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / folder).mkdir()
        write_tiny(tmp_path / folder, "llama", seed=seed, tokenizer=DEMO)
        digests.append(sha256((tmp_path / folder / "model.safetensors").read_bytes()).hexdigest())

    assert digests[0] == digests[1] != digests[2]


def test_another_tokenizer_file_would_change_our_sources_and_so_the_key() -> None:
    assert sha256((DEMO / "tokenizer.json").read_bytes()).hexdigest() == TOKENIZER_SHA256


def test_every_kind_of_layer_is_kept() -> None:
    config = tiny_config("qwen3_next", vocab_size=64, end=0)

    assert set(config.layer_types) == {"linear_attention", "full_attention"}


def test_most_of_transformers_language_models_have_a_small_form() -> None:
    def has_one(model_type: str) -> bool:
        try:
            tiny_config(model_type, vocab_size=64, end=0)
        except Exception:
            return False
        return True

    small = [model_type for model_type in classes(CAUSAL) if has_one(model_type)]

    assert len(small) >= 0.85 * len(classes(CAUSAL))


def test_an_unknown_model_type_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        write_tiny(tmp_path, "lama", seed=0, tokenizer=DEMO)

    assert caught.value.kind == "model.unsupported"
    assert caught.value.hint is not None
    assert "did you mean" in caught.value.hint
    assert "llama" in caught.value.hint


def test_a_family_that_stays_large_is_refused_before_its_memory_is_taken(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tiny, "_MOST_PARAMETERS", 1000)

    with pytest.raises(ModelError) as caught:
        write_tiny(tmp_path, "gpt2", seed=0, tokenizer=DEMO)

    assert caught.value.kind == "model.unsupported"
    assert list(tmp_path.iterdir()) == []
