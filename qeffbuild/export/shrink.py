"""A model's configuration -> one of the same kind with few layers, heads, experts and words.

The head itself (its width, rotary settings, windows' presence, norms, biases, gates) stays as it is: what a trace can
get wrong depends on it, while what is made smaller only repeats.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

HEADS, KV_HEADS, EXPERTS, WORDS, WIDTH, WINDOW = 4, 2, 4, 256, 64, 8
MOST_PARAMETERS = 60_000_000

# Each family has its own words for the same size; transformers maps some of them onto one another, not all.
LAYER_NAMES = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
HEAD_NAMES = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEAD_NAMES = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "multi_query_group_num")
HIDDEN_NAMES = ("hidden_size", "n_embd", "d_model", "dim")
INNER_NAMES = (
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "ffn_hidden_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "expert_ffn_hidden_size",
)
EXPERT_NAMES = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN_NAMES = ("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "experts_per_token")
WINDOW_NAMES = ("sliding_window", "attention_chunk_size", "local_attention")
TOKEN_NAMES = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "unk_token_id", "mask_token_id")


def small(said: Mapping[str, Any], full: Any) -> dict[str, Any]:
    """`said` is config.json, `full` the transformers configuration made of it (which knows the defaults)."""
    config = copy.deepcopy(dict(said))
    _fewer_layers(config, full)
    _fewer_heads(config, full)
    for name in INNER_NAMES:
        _at_most(config, full, name, WIDTH)
    for name in EXPERT_NAMES:
        _at_most(config, full, name, EXPERTS)
    for name in CHOSEN_NAMES:
        _at_most(config, full, name, 2)
    for name in WINDOW_NAMES:
        _at_most(config, full, name, WINDOW)
    _at_most(config, full, "vocab_size", WORDS)
    for name in TOKEN_NAMES:
        _token_within(config, full, name)
    return config


def _size(full: Any, names: tuple[str, ...]) -> tuple[str, int] | None:
    """The first of the names that this configuration uses, and its value."""
    for name in names:
        value = getattr(full, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return name, value
    return None


def _at_most(config: dict[str, Any], full: Any, name: str, most: int) -> None:
    value = getattr(full, name, None)
    if isinstance(value, int) and not isinstance(value, bool):
        config[name] = min(value, most)


def _token_within(config: dict[str, Any], full: Any, name: str) -> None:
    value = getattr(full, name, None)
    if isinstance(value, int):
        config[name] = min(value, WORDS - 1)
    if isinstance(value, list):
        config[name] = [min(token, WORDS - 1) for token in value]


def _fewer_layers(config: dict[str, Any], full: Any) -> None:
    """One layer of each kind that the configuration's per-layer lists name, at least two."""
    found = _size(full, LAYER_NAMES)
    if found is None:
        return
    name, count = found
    lists = {key: value for key, value in vars(full).items() if isinstance(value, list) and len(value) == count}
    kinds: dict[str, int] = {}
    for layer in range(count):
        kinds.setdefault(repr([value[layer] for value in lists.values()]), layer)
    kept = sorted({*kinds.values(), *range(min(2, count))})
    for key, value in lists.items():
        config[key] = [value[layer] for layer in kept]
    config[name] = len(kept)


def _fewer_heads(config: dict[str, Any], full: Any) -> None:
    """Four heads of the full width; key heads as before in kind: as many, one, or half as many."""
    heads, hidden = _size(full, HEAD_NAMES), _size(full, HIDDEN_NAMES)
    if heads is None or hidden is None:
        return
    (head_name, count), (hidden_name, width) = heads, hidden
    config[head_name] = min(count, HEADS)
    for name in KV_HEAD_NAMES:
        kv = getattr(full, name, None)
        if isinstance(kv, int) and not isinstance(kv, bool):
            config[name] = config[head_name] if kv == count else min(kv, KV_HEADS)
    head_dim = getattr(full, "head_dim", None)
    if isinstance(head_dim, int) and head_dim * count != width:
        # The width of a head is said on its own here, so the hidden size is free.
        config[hidden_name] = min(width, WIDTH * 2)
        return
    config[hidden_name] = width // count * config[head_name]
