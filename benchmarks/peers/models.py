"""The models that peers are measured on: the demo as it is, and three well-known shapes with random weights."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import qeffbuild

DEMO = Path(qeffbuild.__file__).parent / "models" / "demo"

_LLAMA = {"vocab_size": 32_000, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-124m": ("gpt2", {}),
    "llama-160m": (
        "llama",
        {
            **_LLAMA,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 12,
        },
    ),
    "llama-1.1b": (
        "llama",
        {
            **_LLAMA,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
        },
    ),
}
NAMES = ("demo", *SHAPES)


def make(name: str, folder: Path) -> Path:
    """The model's folder below `folder`; made once, the same weights each time, in float16 as most checkpoints are."""
    if name == "demo":
        return DEMO
    made = folder / name
    if (made / "done").exists():
        return made
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.rmtree(made, ignore_errors=True)
    torch.manual_seed(0)
    model_type, said = SHAPES[name]
    config = AutoConfig.for_model(model_type, **said)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32).half()
    network.save_pretrained(made)
    for tokenizer in DEMO.glob("tokenizer*.json"):  # prompts are token ids; it only has to be there
        shutil.copy(tokenizer, made)
    (made / "done").touch()
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=NAMES, help=", ".join(NAMES))
    words = parser.parse_args()
    for wanted in words.names:
        print(make(wanted, words.folder))
