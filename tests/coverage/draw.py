"""A model type and a number -> a small configuration with some of its switches set otherwise, and a text to run it on.

The same type and number give the same draw on every machine. What is drawn is what published configurations differ in:
numbers of heads and their widths, layers and their kinds, windows, rotary settings, biases, activations, norms, caps,
multipliers, experts, tied embeddings, sizes that are a multiple of nothing. Not every draw is a possible model:
transformers decides, and who asks draws again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from check import END, VOCABULARY, Text

from qeffbuild.export.shrink import HEAD_NAMES, HIDDEN_NAMES, KV_HEAD_NAMES, LAYER_NAMES
from qeffbuild.export.skeleton import configuration
from qeffbuild.models.tiny import tiny_config

ACTIVATIONS = (
    "gelu",
    "gelu_new",
    "gelu_pytorch_tanh",
    "quick_gelu",
    "relu",
    "relu2",
    "silu",
    "tanh",
    "mish",
    "sigmoid",
)
WINDOWS = (1, 2, 3, 5, 8, 16, 31, 64, 4096)
LENGTHS = (50, 63, 100, 512, 4096)
NORMS = (1e-6, 1e-5, 1e-3)
CAPS = (None, 5.0, 30.0)
# Sizes and numbers by the words that families have for them; each stays within what a small model can have.
CHOICES: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"), ACTIVATIONS),
    **dict.fromkeys(("sliding_window", "window_size", "attention_chunk_size", "local_attention"), WINDOWS),
    **dict.fromkeys(("attention_window_size", "swa_window_size"), WINDOWS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length"), LENGTHS),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"), NORMS),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap"), CAPS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), (2, 3, 4, 5, 8)),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts"), (1, 2, 3)),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts"), (1, 2)),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), (0, 1, 2, 3)),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), (96, 100, 130, 256)),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), (24, 40, 64)),
    **dict.fromkeys(("conv_L_cache", "linear_conv_kernel_dim", "mamba_d_conv", "conv_kernel"), (2, 3, 4)),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), (4, 8, 16)),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), (1, 2)),
    **dict.fromkeys(("rotary_pct", "partial_rotary_factor"), (0.25, 0.5, 0.75, 1.0)),
    **dict.fromkeys(("decoder_sparse_step", "moe_layer_freq", "moe_layer_interval"), (1, 2)),
    "vocab_size": (97, 131, 257, 300, 1001),
    "embedding_multiplier": (0.5, 1.0, 12.0),
    "residual_multiplier": (0.22, 1.0),
    "logits_scaling": (0.5, 1.0, 16.0),
    "attention_multiplier": (0.015625, 0.1, 0.25),
    "logit_scale": (0.0625, 1.0, 2.0),
    "query_pre_attn_scalar": (16, 24, 256),
    "rotary_dim": (4, 8, 16),
    "n_group": (1, 2),
    "topk_group": (1, 2),
    "routed_scaling_factor": (1.0, 2.5),
    "scoring_func": ("softmax", "sigmoid"),
    "mlp_only_layers": ([], [0], [1]),
    "max_window_layers": (0, 1, 2, 3),
    "sliding_window_pattern": (2, 3, 6),
    "full_attention_interval": (1, 2, 3),
    "kv_lora_rank": (8, 16, 24),
    "q_lora_rank": (None, 16, 24),
    "qk_nope_head_dim": (8, 16, 24),
    "qk_rope_head_dim": (8, 16),
    "v_head_dim": (8, 16, 24),
    "linear_num_key_heads": (1, 2),
    "linear_num_value_heads": (2, 4, 6),
    "linear_key_head_dim": (8, 16),
    "linear_value_head_dim": (8, 16, 24),
    "clip_qkv": (None, 0.5, 8.0),
    "no_rope_layer_interval": (1, 2, 3),
    "mlp_ratio": (1, 2, 3),
    "num_kv_shared_layers": (0, 1),
    "attn_config": (
        {"alibi": False}, {"alibi": True, "softmax_scale": 0.3}, {"clip_qkv": 0.5}, {"alibi_bias_max": 4},
    ),
}  # fmt: skip
# Switches of what is returned, of training, and of what the task is.
NOT_SWITCHED = frozenset({
    "use_cache", "return_dict", "is_encoder_decoder", "is_decoder", "is_encoder", "causal", "add_cross_attention",
    "torchscript", "tie_encoder_decoder", "output_attentions", "output_hidden_states", "output_router_logits",
    "use_bfloat16", "asm", "sinusoidal_embeddings", "use_lang_emb", "use_kernels", "use_mambapy", "use_fast_path",
    "use_mamba_kernels", "return_last_states", "use_mlm", "tie_word_embeddings",
})  # fmt: skip
OF_ATTENTION = frozenset({"full_attention", "sliding_attention"})
TRIES = 12


def drawn(model_type: str, number: int, attempt: int = 0) -> tuple[dict[str, Any], Text]:
    """config.json of the draw, and the text. Who cannot make a model of it draws again with the next `attempt`."""
    chance = random.Random(f"{model_type} {number} {attempt}")
    said = json.loads(tiny_config(model_type, VOCABULARY, END).to_json_string(use_diff=False))
    part = next((said[name] for name in ("text_config", "decoder") if isinstance(said.get(name), dict)), said)
    for change in (_layers, _heads, _rotary, _switches, _numbers):
        if chance.random() < 0.6:
            change(chance, part)
    vocabulary = min(size for size in (part.get("vocab_size"), VOCABULARY) if isinstance(size, int))
    return said, _text(chance, vocabulary)


def made(model_type: str, number: int, attempt: int = 0) -> Any:
    return configuration(drawn(model_type, number, attempt)[0])


def _text(chance: random.Random, vocabulary: int) -> Text:
    rows = tuple(
        tuple(chance.randrange(5, vocabulary) for _ in range(chance.choice((1, 2, 3, 5, 7, 11, 13, 17, 21))))
        for _ in range(chance.randint(1, 5))
    )
    decoded = tuple(chance.randrange(5, vocabulary) for _ in range(8))
    longest = max(map(len, rows)) + len(decoded)
    return Text(rows=rows, decoded=decoded, ctx_len=longest + chance.choice((0, 1, 2, 5)), chunk=chance.randint(1, 8))


def _first(said: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if isinstance(said.get(name), int)), None)


def _layers(chance: random.Random, said: dict[str, Any]) -> None:
    """One to five layers, and lists that say something of each in an order of their own."""
    name = _first(said, LAYER_NAMES)
    if name is None:
        return
    before, count = said[name], chance.choice((1, 2, 3, 5))
    for key, values in said.items():
        if isinstance(values, list) and len(values) == before and key != "architectures":
            kinds = sorted(set(map(str, values)))
            possible = [*values, *(sorted(OF_ATTENTION) if key == "layer_types" and set(kinds) <= OF_ATTENTION else [])]
            said[key] = [chance.choice(possible) for _ in range(count)]
    said[name] = count


def _heads(chance: random.Random, said: dict[str, Any]) -> None:
    """Any number of heads, in groups of any size, as wide as the model says or as it may choose."""
    head, hidden = _first(said, HEAD_NAMES), _first(said, HIDDEN_NAMES)
    if head is None or hidden is None:
        return
    count, width = chance.choice((1, 2, 3, 4, 5, 6, 7, 8, 12)), chance.choice((8, 12, 16, 20, 24, 32, 40, 64))
    said[head] = count
    for name in KV_HEAD_NAMES:
        if isinstance(said.get(name), int):
            said[name] = chance.choice([each for each in range(1, count + 1) if count % each == 0])
    if isinstance(said.get("head_dim"), int):
        said["head_dim"], said[hidden] = width, chance.choice((64, 72, 80, 96, 136))
    else:
        said[hidden] = count * width


def _rotary(chance: random.Random, said: dict[str, Any]) -> None:
    rope = said.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    parts = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    for part in parts:
        if "mrope_section" not in part:
            _turn(chance, said, part)


def _turn(chance: random.Random, said: dict[str, Any], rope: dict[str, Any]) -> None:
    """Any of transformers' rotary kinds. (Tables that change with the length have an original length out of reach.)"""
    kind = chance.choice(("default", "linear", "dynamic", "yarn", "longrope", "llama3"))
    theta, partial = chance.choice((500.0, 10000.0, 1000000.0)), rope.get("partial_rotary_factor")
    if partial is not None and chance.random() < 0.5:
        partial = chance.choice((0.25, 0.5, 0.75, 1.0))
    rope.clear()
    rope.update(rope_type=kind, rope_theta=theta)
    if partial is not None:
        rope["partial_rotary_factor"] = partial
    if kind != "default":
        rope["factor"] = chance.choice((1.5, 2.0, 4.0))
    if kind in ("yarn", "llama3"):
        rope["original_max_position_embeddings"] = chance.choice((8, 16, 64))
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind == "yarn" and chance.random() < 0.6:
        rope |= chance.choice(
            ({"truncate": False}, {"attention_factor": 1.2}, {"mscale": 0.7, "mscale_all_dim": 1.0}, {"beta_fast": 16})
        )
    if kind == "longrope":
        heads, hidden = _first(said, HEAD_NAMES), _first(said, HIDDEN_NAMES)
        width = said.get("qk_rope_head_dim") or said.get("head_dim")
        width = width or (said[hidden] // said[heads] if heads and hidden else 16)
        half = int(width * (partial or 1.0)) // 2
        rope["original_max_position_embeddings"] = 64
        rope["short_factor"] = [1.0 + 0.01 * place for place in range(half)]
        rope["long_factor"] = [1.0 + 0.2 * place for place in range(half)]


def _switches(chance: random.Random, said: dict[str, Any]) -> None:
    """One to three switches the other way, and embeddings tied or not."""
    if isinstance(said.get("tie_word_embeddings"), bool):
        said["tie_word_embeddings"] = chance.random() < 0.5
    switches = sorted(name for name, value in said.items() if isinstance(value, bool) and name not in NOT_SWITCHED)
    for name in chance.sample(switches, min(len(switches), chance.randint(1, 3))):
        said[name] = not said[name]


def _numbers(chance: random.Random, said: dict[str, Any]) -> None:
    known = sorted(name for name in said if name in CHOICES and not isinstance(said[name], list))
    for name in chance.sample(known, min(len(known), chance.randint(1, 5))):
        value = chance.choice(CHOICES[name])
        said[name] = {**said[name], **value} if isinstance(value, dict) and isinstance(said[name], dict) else value
