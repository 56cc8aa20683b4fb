"""Model types that transformers lacks and that we bring, each a file here: its configuration and its causal model."""

from __future__ import annotations

from importlib import import_module

OWN = {"llama_swiftkv": "LlamaSwiftKVForCausalLM"}  # model_type -> class, as transformers' tables have them


def learn(model_type: str) -> None:
    """From here on transformers' tables have the type, if it is one of ours."""
    if model_type not in OWN:
        return
    from transformers import AutoConfig, AutoModelForCausalLM

    room = import_module(f"{__name__}.{model_type}")
    AutoConfig.register(model_type, room.CONFIG, exist_ok=True)
    AutoModelForCausalLM.register(room.CONFIG, room.MODEL, exist_ok=True)
