"""A recorded model_config -> the folder of a random model of it, with a tokenizer of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qeffbuild.models.classes import learn
from qeffbuild.models.own import OWN
from qeffbuild.models.weights import read_header
from tests.golden.processors import sees, words_of, write_processor
from tests.golden.quantized import quantize

_SPECIAL = ("<pad>", "<s>", "</s>")


def write_model(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes config.json, model.safetensors and a tokenizer that any vocabulary of 259 words or more has room for."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    learn(config)
    chosen = transformers.AutoConfig.for_model(**plain)
    own = transformers.AutoModelForCausalLM if config["model_type"] in OWN else None
    cls = own._model_mapping[type(chosen)] if own else getattr(transformers, config["architectures"][0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cls._from_config(chosen)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if said := config.get("quantization_config"):
        quantize(folder, said)
    if not sees(config):
        write_tokenizer(folder, config.get("vocab_size") or 1 << 20)
        return
    write_tokenizer(folder, config["text_config"].get("vocab_size") or 1 << 20, words_of(config))
    write_processor(folder, config)


def write_tokenizer(folder: Path, size: int = 1 << 20, named: Mapping[str, tuple[int, str]] = {}) -> None:
    """Of bytes; a model of a small vocabulary of letters gets the first of them. `named` are tokens of their own."""
    special = {**dict(enumerate(_SPECIAL)), **dict(named.values())}
    free = (place for place in range(size) if place not in special)
    words = {**special, **dict(zip(free, _byte_letters(), strict=False))}
    said = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": word, "special": True, "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False}
            for i, word in special.items()
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {word: i for i, word in words.items()}, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(said))
    said = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    said |= {"extra_special_tokens": {name: word for name, (_, word) in named.items()}} if named else {}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, **said})
    )


def adapters_of(request: Mapping[str, Any], model: Path) -> dict[str, str]:
    """The adapters that a request speaks of, as folders of zeros below the model's: name -> folder."""
    if said := request.get("adapter"):  # "r=8 q,v": one adapter's rank, and the first letters of what it changes
        rank, _, letters = said.removeprefix("r=").partition(" ")
        return {"first": _adapter(model, "first", int(rank), [f"{letter}_proj" for letter in letters.split(",")])}
    count = request.get("adapters", 0)
    names = [f"adapter{number}" for number in range(count)]
    return {name: _adapter(model, name, request["rank"], request["target_modules"]) for name in names}


def _adapter(model: Path, name: str, rank: int, targets: list[str]) -> str:
    import numpy as np
    from safetensors.numpy import save_file

    folder = model / "adapters" / f"{name}_{rank}_{'_'.join(targets)}"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for weight, tensor in read_header(model, "model.safetensors").items():
        module = weight.removesuffix(".weight")
        if module.rpartition(".")[2] in targets:
            rows, columns = tensor.shape
            tensors[f"base_model.model.{module}.lora_A.weight"] = np.zeros((rank, columns), np.float32)
            tensors[f"base_model.model.{module}.lora_B.weight"] = np.zeros((rows, rank), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return str(folder)


def _byte_letters() -> list[str]:
    """One printable letter per byte, as byte-level vocabularies have them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]


def config_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded configuration; where none was kept, its class's own, with what the graph's states say."""
    request = case.get("request", case)
    if said := request.get("model_config"):
        return dict(said)
    return _default_config(case)


def _default_config(case: Mapping[str, Any]) -> dict[str, Any]:
    """A record without a configuration still names the class, by its file, and shows layers, heads and vocabulary."""
    import transformers

    name = Path(case["io"]["onnx"]).stem
    cls = getattr(transformers, name)
    config = cls.config_class()
    states = [tensor for tensor in case["io"]["inputs"] if tensor["name"].startswith("past_key.")]
    logits = next(tensor for tensor in case["io"]["outputs"] if tensor["name"] == "logits")
    config.num_hidden_layers = len(states)
    if isinstance(logits["shape"][-1], int):
        config.vocab_size = logits["shape"][-1]
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = states[0]["shape"][1]
    return {**config.to_dict(), "architectures": [name]}
