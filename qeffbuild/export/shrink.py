"""A model's configuration -> one of the same kind with few layers, heads, experts and words.

The head itself (its width, rotary settings, windows' presence, norms, biases, gates) stays as it is: what a trace can
get wrong depends on it, while what is made smaller only repeats.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

HEADS, KV_HEADS, EXPERTS, WORDS, WIDTH, WINDOW, BLOCK, POSITIONS = 4, 2, 4, 256, 64, 8, 4, 64
MOST_PARAMETERS = 60_000_000

# Each family has its own words for the same size; transformers maps some of them onto one another, not all.
LAYER_NAMES = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "num_decoder_layers")
SIDE_NAMES = ("encoder_layers", "decoder_layers")
# Every so many layers one is of another kind, from this one on; before this one all are dense.
PERIOD_NAMES = ("attn_layer_period", "expert_layer_period", "decoder_sparse_step", "interleave_moe_layer_step")
FIRST_NAMES = ("attn_layer_offset", "expert_layer_offset", "first_k_dense_replace", "moe_layer_start_index")
STACK = "num_layers_per_stack"  # layers that are gone through several times, each of which counts
BY_LAYER, SHARED = "per_layer_config", "num_kv_shared_layers"  # the last layers read keys and values of earlier ones
LIST_WORDS = ("layer", "indices", "idxs")
HEAD_NAMES = ("num_attention_heads", "n_head", "n_heads", "num_heads")
SIDE_HEAD_NAMES = ("encoder_attention_heads", "decoder_attention_heads")
KV_HEAD_NAMES = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "multi_query_group_num")
HIDDEN_NAMES = ("hidden_size", "n_embd", "d_model", "dim")
INNER_NAMES = (
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "ffn_hidden_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "expert_ffn_hidden_size",
)
EXPERT_NAMES = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN_NAMES = ("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "experts_per_token")
POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
EXPERT_GROUP_NAMES, CHOSEN_GROUP_NAMES = ("n_group", "num_expert_group"), ("topk_group", "topk_expert_group")
# How far a token looks, and how many tokens or blocks are chosen for it: where that is more than the text of the check
# has, nothing is chosen and nothing out of sight, and a trace that leaves the choice away would seem right.
SPANS = re.compile(r"window|topk|budget|extent|local_attention|attention_chunk_size")
BLOCKS = re.compile(r"compress_rat|block_size")
NO_SPANS = re.compile(r"layer|pattern|group|moe|expert|norm|method|prefix|probs")
# Of state-space layers: heads, width of a head, inner width as a multiple of the hidden size or by itself, groups.
INNER_HEAD_NAMES = ("mamba_n_heads", "n_mamba_heads", "mamba_num_heads", "num_heads")
INNER_WIDTH_NAMES = ("mamba_d_head", "mamba_headdim", "mamba_head_dim", "head_dim")
EXPAND_NAMES = ("mamba_expand", "expand")
GROUP_NAMES = ("mamba_n_groups", "mamba_ngroups", "n_groups")
VOCABULARY_NAMES = ("vocab_size", "vocab_size_per_layer_input", "entity_vocab_size")
TOKEN_NAMES = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "unk_token_id", "mask_token_id")


def candidates(said: Mapping[str, Any], full: Any) -> Iterator[dict[str, Any]]:
    """The smallest first; then, for families whose sizes hang together in other ways, what is changed less."""
    yield small(said, full)
    fewer = copy.deepcopy(dict(said))
    _fewer_layers(fewer, full)
    _room(fewer, full)
    yield fewer
    same = copy.deepcopy(dict(said))
    _room(same, full)
    yield same


def small(said: Mapping[str, Any], full: Any) -> dict[str, Any]:
    """`said` is config.json, `full` the transformers configuration made of it (which knows the defaults)."""
    config = copy.deepcopy(dict(said))
    _fewer_layers(config, full)
    _fewer_heads(config, full)
    _fewer_inner_heads(config, full)
    _one_answer(config, full)
    _room(config, full)
    for name in INNER_NAMES:
        _at_most(config, full, name, WIDTH)
    for name in EXPERT_NAMES:
        _at_most(config, full, name, EXPERTS)
    for name in CHOSEN_NAMES:
        _at_most(config, full, name, 2)
    _fewer_groups(config, full)
    _shorter_spans(config, full)
    for name in VOCABULARY_NAMES:
        _at_most(config, full, name, WORDS)
    for name in TOKEN_NAMES:
        _token_within(config, full, name)
    text = full.get_text_config(decoder=True)
    for name in full.sub_configs:
        part = getattr(full, name, None)
        if part is None:
            continue
        said = config.get(name) or part.to_dict()
        if part is text:
            config[name] = small(said, part)
        else:
            config[name] = copy.deepcopy(said)
            _fewer_layers(config[name], part)
    return config


def positions(full: Any) -> int | None:
    """How many a model has by its configuration; None where it does not say."""
    found = _size(full.get_text_config(decoder=True), POSITION_NAMES)
    return None if found is None else found[1]


def _size(full: Any, names: tuple[str, ...]) -> tuple[str, int] | None:
    """The first of the names that this configuration uses, and its value."""
    for name in names:
        value = _said(full, name)
        # A property is worked out from the sizes that the family has in its place.
        if isinstance(value, int) and not isinstance(value, bool) and not _is_property(full, name):
            return name, value
    return None


def _said(full: Any, name: str) -> Any:
    """What a configuration says; None where it says it for each layer apart, so that it has no one answer."""
    try:
        return getattr(full, name, None)
    except Exception:
        return None


def _is_property(full: Any, name: str) -> bool:
    return isinstance(inspect.getattr_static(type(full), name, None), property)


def _at_most(config: dict[str, Any], full: Any, name: str, most: int) -> None:
    value = _said(full, name)
    if isinstance(value, int) and not isinstance(value, bool):
        config[name] = min(value, most)
    held = config.get(name)
    if isinstance(held, list) and all(isinstance(one, int) for one in held):  # one for each layer
        config[name] = [min(one, most) for one in held]


def _token_within(config: dict[str, Any], full: Any, name: str) -> None:
    value = _said(full, name)
    if isinstance(value, int):
        config[name] = min(value, WORDS - 1)
    if isinstance(value, list):
        config[name] = [min(token, WORDS - 1) for token in value]


def _fewer_layers(config: dict[str, Any], full: Any) -> None:
    """One layer of each kind that the configuration tells apart, at least two."""
    found = _size(full, LAYER_NAMES)
    if found is None:
        return
    name, count = found
    lists = {key: value for key, value in vars(full).items() if isinstance(value, list) and len(value) == count}
    chosen = {key: value for key, value in vars(full).items() if key not in lists and _numbers_layers(key, value)}
    shared = _said(full, SHARED) if isinstance(_said(full, SHARED), int) else 0
    kinds: dict[str, int] = {}
    for layer in range(count):
        told = [value[layer] for value in lists.values()], [layer in value for value in chosen.values()]
        kinds.setdefault(repr((told, layer >= count - shared)), layer)
    kept = sorted({*kinds.values(), *range(min(2, count))})
    stack = _said(full, STACK)
    if isinstance(stack, int):
        config[STACK] = min(stack, 2)
        kept = list(range(config[STACK] * count // stack))
    for key, value in lists.items():
        config[key] = [value[layer] for layer in kept]
    for key, value in chosen.items():
        config[key] = [place for place, layer in enumerate(kept) if layer in value]
    if isinstance(config.get(BY_LAYER), dict):
        before = {int(layer): value for layer, value in config[BY_LAYER].items()}
        config[BY_LAYER] = {str(place): before[layer] for place, layer in enumerate(kept) if layer in before}
    if shared:
        config[SHARED] = sum(layer >= count - shared for layer in kept)
    config[name] = len(kept)
    for other in SIDE_NAMES:
        _at_most(config, full, other, len(kept))
    for period in PERIOD_NAMES:
        _at_most(config, full, period, 2)
    for first in FIRST_NAMES:
        _at_most(config, full, first, 1)


def _numbers_layers(key: str, value: Any) -> bool:
    """Whether this is a list of layers' numbers: those of one kind."""
    is_ordered = isinstance(value, list) and bool(value) and all(isinstance(one, int) for one in value)
    return is_ordered and value == sorted(set(value)) and any(word in key for word in LIST_WORDS)


def _fewer_heads(config: dict[str, Any], full: Any) -> None:
    """Four heads of the full width; key heads as before in kind: as many, one, or half as many."""
    heads, hidden = _size(full, HEAD_NAMES), _size(full, HIDDEN_NAMES)
    if heads is None and isinstance(config.get(BY_LAYER), dict):
        for part in (config, *config[BY_LAYER].values()):
            part |= {name: min(part[name], HEADS) for name in (*HEAD_NAMES, *KV_HEAD_NAMES) if name in part}
    if heads is None or hidden is None:
        return
    (head_name, count), (hidden_name, width) = heads, hidden
    config[head_name] = min(count, HEADS)
    for name in SIDE_HEAD_NAMES:
        if _said(full, name) == count:
            config[name] = config[head_name]
    for name in KV_HEAD_NAMES:
        kv = _said(full, name)
        if isinstance(kv, int) and not isinstance(kv, bool):
            config[name] = config[head_name] if kv == count else min(kv, KV_HEADS)
    head_dim = _said(full, "head_dim")
    if isinstance(head_dim, int) and head_dim * count != width:
        # The width of a head is said on its own here, so the hidden size is free.
        config[hidden_name] = min(width, WIDTH * 2)
        return
    config[hidden_name] = width // count * config[head_name]


def _shorter_spans(config: dict[str, Any], full: Any) -> None:
    """A window of a few tokens; blocks of fewer, of which two are chosen."""
    names = [name for name in vars(full) if not NO_SPANS.search(name)]
    blocks = [name for name in names if BLOCKS.search(name)]
    for name in blocks:
        _at_most(config, full, name, BLOCK)
        rates = _said(full, name)
        if isinstance(rates, dict):
            config[name] = {kind: min(rate, BLOCK) for kind, rate in rates.items()}
    for name in names:
        if SPANS.search(name) and name not in blocks:
            _at_most(config, full, name, 2 if blocks and "topk" in name else WINDOW)


def _fewer_groups(config: dict[str, Any], full: Any) -> None:
    """Two groups of four experts, where they are chosen by groups, of which all count or one."""
    groups = _size(full, EXPERT_GROUP_NAMES)
    if groups is None or groups[1] < 2:
        return
    # Several words may be one and the same number, and then the last one counts.
    for name in EXPERT_NAMES:
        _at_most(config, full, name, 2 * EXPERTS)
    for name in EXPERT_GROUP_NAMES:
        _at_most(config, full, name, 2)
    for name in CHOSEN_GROUP_NAMES:
        _at_most(config, full, name, 2 if _said(full, name) == groups[1] else 1)


def _fewer_inner_heads(config: dict[str, Any], full: Any) -> None:
    """As many heads of a state-space layer as its inner width has room for, now that it is smaller."""
    hidden, expand = _size(full, HIDDEN_NAMES), _size(full, EXPAND_NAMES)
    heads, width = _size(full, INNER_HEAD_NAMES), _size(full, INNER_WIDTH_NAMES)
    if hidden is None or expand is None or heads is None or width is None:
        return
    (hidden_name, before), (head_name, count) = hidden, heads
    inner = expand[1] * config.get(hidden_name, before)
    if expand[1] * before != count * width[1] or inner % width[1]:
        return  # they do not hang together in this family
    config[head_name] = inner // width[1]
    groups = _size(full, GROUP_NAMES)
    if groups is not None:
        config[groups[0]] = math.gcd(groups[1], config[head_name])
    if isinstance(getattr(full, "mamba_d_ssm", None), int):
        config["mamba_d_ssm"] = inner


def _one_answer(config: dict[str, Any], full: Any) -> None:
    """What PyTorch itself computes differently with a cache and without stays out of the check.

    A rotary table that stretches with the text does not turn the keys that are cached already, and state-space layers
    clip small time steps in prefill, not in decode.
    """
    if isinstance(getattr(full, "time_step_min", None), float):
        config["time_step_min"] = min(full.time_step_min, 1e-6)
    if "dynamic" in str(getattr(full, "rope_parameters", None)):
        config["max_position_embeddings"] = max(full.max_position_embeddings, POSITIONS)


def _room(config: dict[str, Any], full: Any) -> None:
    """Positions enough for the texts of the check, where a model has fewer."""
    for name in POSITION_NAMES:
        value = _said(full, name)
        if isinstance(value, int) and not _is_property(full, name) and name not in type(full).attribute_map:
            config[name] = max(value, POSITIONS)
