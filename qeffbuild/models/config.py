"""config.json -> the few numbers of a model that a build is checked against, whatever the family calls them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from qeffbuild.errors import ModelError
from qeffbuild.models.files import CONFIG, GENERATION_CONFIG, line_of, read_json

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length", "max_target_positions")

# Our word (the commonest one) -> the words that families have for it, and the most that is believed.
WORDS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "num_hidden_layers": (("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 10_000),
    "num_attention_heads": (("num_attention_heads", "n_head", "n_heads", "num_heads"), 100_000),
    "num_key_value_heads": (("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads"), 100_000),
    "hidden_size": (("hidden_size", "n_embd", "d_model"), 1 << 24),
    "vocab_size": (("vocab_size",), 1 << 28),
    "max_position_embeddings": (_POSITIONS, 1 << 32),
}

# Families whose attention heads have a size of their own, so that hidden_size need not divide.
_HEAD_SIZES = ("head_dim", "attention_head_size", "kv_channels", "v_head_dim", "qk_nope_head_dim")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder, with its numbers checked."""
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError("model.config", f"no {CONFIG} in the model folder", where=str(folder))
    config = read_json(path, "model.config")
    _check_numbers(path, config)
    return config


def read_generation_config(folder: Path) -> dict[str, Any] | None:
    path = folder / GENERATION_CONFIG
    return read_json(path, "model.config") if path.is_file() else None


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part about the language model, where a config has several."""
    nested = config.get("text_config")
    if nested is None and config.get("vocab_size") is None:  # a decoder of one family behind an encoder of another
        nested = config.get("decoder")
    return nested if isinstance(nested, Mapping) else config


def number(config: Mapping[str, Any], word: str) -> int | None:
    """A number by our word for it; None where the config leaves it to the family's default or has one per layer."""
    found = _find(text_config(config), word)
    return found[1] if found and isinstance(found[1], int) else None


def num_key_value_heads(config: Mapping[str, Any]) -> int | None:
    """Heads of the KV cache: as said, one for multi-query attention, else as many as attention heads."""
    text = text_config(config)
    if text.get("multi_query") is True and not text.get("new_decoder_architecture"):
        return 1  # whatever else is said: Falcon's configurations give a number there that is not used
    nested = text.get("attn_config")
    if isinstance(nested, Mapping) and isinstance(nested.get("kv_n_heads"), int):
        return nested["kv_n_heads"]
    if said := number(config, "num_key_value_heads"):
        return said
    return number(config, "num_attention_heads")


def _find(config: Mapping[str, Any], word: str) -> tuple[str, Any] | None:
    names, _ = WORDS[word]
    return next(((name, config[name]) for name in names if config.get(name) is not None), None)


def _check_numbers(path: Path, config: Mapping[str, Any]) -> None:
    text = text_config(config)
    for word, (_, highest) in WORDS.items():
        found = _find(text, word)
        if found is None or isinstance(found[1], list):  # one per layer
            continue
        name, value = found
        if not isinstance(value, int) or isinstance(value, bool):
            _refuse(path, word, f"{name} is {value!r:.40}, not a number")
        if not 1 <= value <= highest:
            _refuse(path, word, f"{name} is {value}; expected 1 to {highest}")
    heads, hidden = number(config, "num_attention_heads"), number(config, "hidden_size")
    if heads and hidden and hidden % heads and not any(text.get(name) for name in _HEAD_SIZES):
        _refuse(path, "hidden_size", f"hidden size {hidden} is not divisible by {heads} attention heads")
    kv_heads = num_key_value_heads(config)
    if heads and kv_heads and heads % kv_heads:
        _refuse(path, "num_key_value_heads", f"{heads} attention heads are not divisible by {kv_heads} key-value heads")


def _refuse(path: Path, word: str, found: str) -> NoReturn:
    text = path.read_text("utf-8")
    key = next((name for name in WORDS[word][0] if f'"{name}"' in text), word)
    raise ModelError("model.config", f"{CONFIG}: {found}", where=line_of(path, key))
