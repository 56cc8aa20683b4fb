"""What a checkpoint stores in half precision is computed with in float32, whichever module reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from qeffbuild.gate.network import mapped_network
from qeffbuild.models import DEMO, read_facts
from qeffbuild.models.tiny import write_tiny

# Mamba's mixer reads the weights of the layers within it; Gemma's table of words has a scale that is no weight.
FAMILIES = ("mamba", "gemma")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_narrow_checkpoint_says_in_the_gate_what_it_says_when_it_is_loaded_wide(
    model_type: str, tmp_path: Path
) -> None:
    write_tiny(tmp_path, model_type, seed=0, tokenizer=DEMO)
    narrow = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    narrow.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    text = {"input_ids": torch.arange(20, 40)[None], "use_cache": False}

    with mapped_network(tmp_path, read_facts(tmp_path)) as network:
        found = network(**text).logits
        again = network(**text).logits

    wide = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        wanted = wide(**text).logits
    assert torch.equal(found, wanted)
    assert torch.equal(again, wanted)


def test_what_is_stored_wide_among_narrow_tensors_stays_wide(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama", seed=0, tokenizer=DEMO)
    torch.manual_seed(1)
    wide = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    state = {}
    for name, tensor in wide.state_dict().items():
        tensor.mul_(1 + 0.1 * torch.rand_like(tensor))
        if tensor.ndim > 1:
            tensor.copy_(tensor.bfloat16())
        state[name] = tensor.clone() if tensor.ndim == 1 else tensor.bfloat16()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    text = {"input_ids": torch.arange(20, 40)[None], "use_cache": False}

    with mapped_network(tmp_path, read_facts(tmp_path)) as network:
        found = network(**text).logits

    with torch.inference_mode():
        assert torch.equal(found, wide(**text).logits)
