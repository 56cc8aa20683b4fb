"""A model_type that sees -> a random model of it with three small layers in each half, and its real processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError
from qeffbuild.models.tiny_families import TABLE, Family
from qeffbuild.models.tiny_more_families import MORE

_KNOWN = {**TABLE, **MORE}
FAMILIES = tuple(sorted(_KNOWN))


def write_tiny_seeing(folder: Path, model_type: str, *, seed: int, tokenizer: Path) -> None:
    """Write the model, its processor, and `tokenizer` with the family's own words; the same bytes for one seed."""
    import torch
    import transformers

    from qeffbuild.models.processor import class_of
    from qeffbuild.models.tensor_images import class_named

    if model_type not in _KNOWN:
        found = f"model.scale: no tiny {model_type} is known"
        raise ModelError("model.unsupported", found, hint=f"those that see are {', '.join(FAMILIES)}")
    family = _KNOWN[model_type]
    words = _tokenizer(tokenizer, family.tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(_config(model_type, family, words)).eval()
        _randomise(model)
    end = words.eos_token_id
    model.generation_config = transformers.GenerationConfig(bos_token_id=end, eos_token_id=end, pad_token_id=end)
    model.save_pretrained(folder)
    class_named(family.cutter)(**family.cutting).save_pretrained(folder)
    words.save_pretrained(folder)
    said = {"processor_class": class_of(model_type).__name__, **family.processor}
    (folder / "processor_config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def _config(model_type: str, family: Family, words: Any) -> Any:
    from transformers import CONFIG_MAPPING

    ids = {key: getattr(words, f"{name}_token_id") for key, name in family.ids.items()}
    config = CONFIG_MAPPING[model_type].from_dict(json.loads(json.dumps({**family.config, **ids})))
    text, end = config.get_text_config(), words.eos_token_id
    text.vocab_size, text.bos_token_id, text.eos_token_id, text.pad_token_id = len(words), end, end, end
    config.tie_word_embeddings = text.tie_word_embeddings = False
    return config


def _tokenizer(folder: Path, named: Mapping[str, str]) -> Any:
    """The tokenizer in `folder` with more words, each of which it knows by its name, too."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    known = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=known._tokenizer,
        eos_token=known.eos_token,
        bos_token=known.eos_token,
        pad_token=known.eos_token,
        additional_special_tokens=list(named.values()),
        extra_special_tokens={f"{name}_token": token for name, token in named.items()},
    )


def _randomise(model: Any) -> None:
    """Weights and biases that matter: transformers starts matrices so small that every token comes out the same."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(noise * 0.1)
