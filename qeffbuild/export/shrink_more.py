"""A configuration -> one of the same kind with fewer layers, words and, where all its parts have as many, heads."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from qeffbuild.export.shrink import HEADS, WORDS

_LAYERS = (
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers",
    "num_decoder_layers", "num_encoder_layers", "encoder_num_hidden_layers", "decoder_num_hidden_layers",
    "speech_encoder_layers",
)  # fmt: skip
_HEADS = ("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads", "num_heads", "n_head", "n_heads")
_INNER = ("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner", "hidden_dim")
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
_TOKENS = (
    "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "sep_token_id", "cls_token_id",
    "unk_token_id", "mask_token_id", "forced_bos_token_id", "forced_eos_token_id",
)  # fmt: skip
_LEAST_LAYERS, _MOST_INNER = 2, 64
# These divide a width into parts of their own, so that it has to stay.
_TIED_TO_WIDTH = ("num_conv_pos_embedding_groups", "num_key_value_heads", "head_dim", "d_kv", "embedding_size")


def small(said: Mapping[str, Any], full: Any) -> dict[str, Any]:
    """`said` is config.json, `full` the transformers configuration made of it (which knows the defaults)."""
    config = _smaller(said, full)
    _fewer_heads(config, full)
    return config


def _smaller(said: Mapping[str, Any], full: Any) -> dict[str, Any]:
    """In its parts as well; their widths hang together, so that heads stay as many there."""
    config = copy.deepcopy(dict(said))
    _fewer_layers(config, full)
    for name in _INNER:
        if _number(full, name) is not None and not hasattr(full, "num_conv_pos_embedding_groups"):
            config[name] = min(_number(full, name) or 0, _MOST_INNER)
    if _number(full, "vocab_size") is not None:
        config["vocab_size"] = min(full.vocab_size, WORDS)
    for name in _TOKENS:
        value = getattr(full, name, None)
        if isinstance(value, int):
            config[name] = min(value, WORDS - 1)
        elif isinstance(value, list):
            config[name] = [min(token, WORDS - 1) for token in value]
    for name in full.sub_configs:
        if (part := getattr(full, name, None)) is not None:
            config[name] = _smaller(config.get(name) or part.to_dict(), part)
    return config


def _number(full: Any, name: str) -> int | None:
    try:
        value = getattr(full, name, None)
    except Exception:  # said for each layer apart, so that it has no one answer
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _fewer_layers(config: dict[str, Any], full: Any) -> None:
    """As many layers as it takes to have one of each kind that per-layer lists name, and two at least."""
    counts = {name: count for name in _LAYERS if (count := _number(full, name)) is not None and count > _LEAST_LAYERS}
    for name, count in counts.items():
        lists = {key: value for key, value in vars(full).items() if isinstance(value, list) and len(value) == count}
        kinds: dict[str, int] = {}
        for layer in range(count):
            kinds.setdefault(repr([value[layer] for value in lists.values()]), layer)
        kept = sorted({*kinds.values(), *range(_LEAST_LAYERS)})
        config[name] = len(kept)
        for key, value in lists.items():
            config[key] = [value[layer] for layer in kept]
    every = getattr(full, "global_attn_every_n_layers", None)
    if isinstance(every, int):
        config["num_hidden_layers"] = every + 1


def _fewer_heads(config: dict[str, Any], full: Any) -> None:
    counts = {_number(full, name) for name in _HEADS} - {None}
    width = next((_number(full, name) for name in _WIDTHS if _number(full, name) is not None), None)
    if len(counts) != 1 or width is None or any(getattr(full, name, None) is not None for name in _TIED_TO_WIDTH):
        return
    (count,) = counts
    if count is None or count <= HEADS or width % count:
        return
    for name in _HEADS:
        if _number(full, name) is not None:
            config[name] = HEADS
    for name in (*_WIDTHS, *(name for name in vars(full) if name.endswith("_hidden_size"))):
        if _number(full, name) == width:
            config[name] = width // count * HEADS
