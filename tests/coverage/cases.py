"""Configurations by hand, where something is odd: heads, groups, windows, layers, rotary kinds, experts, switches.

Each is a family and what is changed in its small configuration (`model.scale=tiny`).
"""

from __future__ import annotations

import json
import random
from typing import Any

from check import END, VOCABULARY, Text

from qeffbuild.export.skeleton import configuration
from qeffbuild.models.config import WORDS
from qeffbuild.models.tiny import tiny_config

LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=5e5,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=16)
DYN = dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)
LIN = dict(rope_type="linear", rope_theta=1e4, factor=2.0)


def heads(count: int, kv: int | None = None, width: int = 16, hidden: int | None = None) -> dict[str, int]:
    """So many heads of this width, over so many for keys."""
    said = {"num_attention_heads": count, "hidden_size": hidden or count * width}
    return said if kv is None else {**said, "num_key_value_heads": kv}


# fmt: off
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", dict(num_hidden_layers=1, **heads(3, 1, 20))),
    ("llama", dict(num_hidden_layers=5, head_dim=24, **heads(7, 7, hidden=56), attention_bias=True, mlp_bias=True,
        tie_word_embeddings=True, vocab_size=97)),
    ("llama", dict(max_position_embeddings=8, rope_parameters=LIN, **heads(5, 5, 8))),
    ("gpt2", dict(n_positions=12, n_head=3, n_embd=15, n_layer=1, vocab_size=33)),
    ("gpt2", dict(n_head=5, n_embd=50, reorder_and_upcast_attn=True, scale_attn_by_inverse_layer_idx=True, n_layer=3,
        activation_function="relu")),
    ("gpt2", dict(n_head=1, n_embd=24, scale_attn_weights=False, tie_word_embeddings=False)),
    ("mistral", dict(sliding_window=1, num_hidden_layers=3)),
    ("mistral", dict(sliding_window=None, **heads(12, 4, 8))),
    ("qwen2", dict(layer_types=["full_attention", "sliding_attention", "sliding_attention"], num_hidden_layers=3,
        use_sliding_window=True, sliding_window=3)),
    ("qwen2", dict(layer_types=["sliding_attention"], num_hidden_layers=1, use_sliding_window=True, sliding_window=2,
        max_window_layers=0)),
    ("gemma2", dict(attn_logit_softcapping=None, final_logit_softcapping=None, query_pre_attn_scalar=24,
        num_hidden_layers=1, layer_types=["sliding_attention"], head_dim=20, **heads(3, 3, hidden=48))),
    ("gemma3_text", dict(num_hidden_layers=5,
        layer_types=["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"] * 2, sliding_window=2,
        use_bidirectional_attention=False)),
    ("gemma3_text", dict(num_hidden_layers=3, layer_types=["full_attention"] * 3, attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0)),
    ("bloom", dict(n_head=5, hidden_size=60, n_layer=3, vocab_size=131)),
    ("bloom", dict(n_head=3, hidden_size=30, n_layer=1, apply_residual_connection_post_layernorm=True)),
    ("mpt", dict(n_heads=3, d_model=36, n_layers=3,
        attn_config={"alibi": True, "alibi_bias_max": 4, "clip_qkv": 0.4, "softmax_scale": 0.3})),
    ("mpt", dict(n_heads=6, d_model=48, n_layers=1, attn_config={"alibi": True, "qk_ln": False}, no_bias=False)),
    ("falcon", dict(alibi=True, new_decoder_architecture=False, multi_query=True, num_attention_heads=5,
        hidden_size=40, num_hidden_layers=3)),
    ("falcon", dict(alibi=True, new_decoder_architecture=False, multi_query=False, num_attention_heads=3,
        num_kv_heads=3, hidden_size=48, parallel_attn=False, bias=True)),
    ("falcon", dict(new_decoder_architecture=True, num_kv_heads=3, num_attention_heads=6, hidden_size=96,
        num_ln_in_parallel_attn=1, bias=True)),
    ("falcon", dict(new_decoder_architecture=False, multi_query=True, num_attention_heads=7, hidden_size=56,
        rope_parameters=DYN)),
    ("gpt_neox", dict(use_parallel_residual=False, rotary_pct=1.0, attention_bias=False, num_attention_heads=3,
        hidden_size=48, tie_word_embeddings=True)),
    ("gpt_neox", dict(num_attention_heads=5, hidden_size=80, num_hidden_layers=1,
        rope_parameters={**YARN, "partial_rotary_factor": 0.25})),
    ("gptj", dict(rotary_dim=4, n_head=3, n_embd=24, n_layer=1)),
    ("codegen", dict(rotary_dim=4, n_head=4, n_embd=48, n_layer=3)),
    ("opt", dict(word_embed_proj_dim=48, do_layer_norm_before=False, num_hidden_layers=3)),
    ("opt", dict(enable_bias=False, layer_norm_elementwise_affine=False, num_attention_heads=3, hidden_size=33,
        word_embed_proj_dim=33, activation_function="gelu")),
    ("phi", dict(qk_layernorm=True, **heads(3, 1, 16))),
    ("phi3", dict(sliding_window=3, **heads(6, 2, 16),
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75})),
    ("stablelm", dict(use_qkv_bias=True, qk_layernorm=True, use_parallel_residual=True, **heads(3, 3, 16))),
    ("starcoder2", dict(sliding_window=2, use_bias=False, **heads(5, 1, 16))),
    ("mixtral", dict(num_local_experts=3, num_experts_per_tok=3, sliding_window=4, num_hidden_layers=1)),
    ("mixtral", dict(num_local_experts=2, num_experts_per_tok=1, **heads(3, 3, 16))),
    ("qwen3_moe", dict(decoder_sparse_step=2, num_hidden_layers=5, norm_topk_prob=True, num_experts_per_tok=1)),
    ("qwen3_moe", dict(mlp_only_layers=[0, 2], num_hidden_layers=3, num_experts=5, num_local_experts=5,
        num_experts_per_tok=5, head_dim=20)),
    ("qwen2_moe", dict(num_hidden_layers=3, decoder_sparse_step=3, qkv_bias=False, norm_topk_prob=True)),
    ("deepseek_v3", dict(n_routed_experts=6, n_group=3, topk_group=2, num_experts_per_tok=3, q_lora_rank=None,
        first_k_dense_replace=0, num_hidden_layers=1)),
    ("deepseek_v3", dict(first_k_dense_replace=3, num_hidden_layers=3, n_shared_experts=2, norm_topk_prob=False,
        rope_parameters={**YARN, "mscale": 0.7, "mscale_all_dim": 1.0}, rope_interleave=False)),
    ("deepseek_v2", dict(topk_method="group_limited_greedy", n_group=2, topk_group=1, num_experts_per_tok=2,
        q_lora_rank=None, first_k_dense_replace=1, num_hidden_layers=5, v_head_dim=24)),
    ("deepseek_v2", dict(topk_method="greedy", moe_layer_freq=2, num_hidden_layers=3, n_shared_experts=2,
        qk_nope_head_dim=8)),
    ("granite", dict(embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=16.0,
        attention_multiplier=0.015625, attention_bias=True, mlp_bias=True)),
    ("granitemoeshared", dict(shared_intermediate_size=40, num_local_experts=5, num_experts_per_tok=1,
        num_hidden_layers=3)),
    ("cohere", dict(use_qk_norm=True, logit_scale=0.25, **heads(3, 1, 16))),
    ("cohere2", dict(num_hidden_layers=5, sliding_window=3,
        layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"])),
    ("gpt_oss", dict(num_hidden_layers=3, layer_types=["full_attention", "sliding_attention", "full_attention"],
        sliding_window=2, head_dim=24, num_local_experts=3, num_experts_per_tok=3, **heads(6, 2, hidden=40))),
    ("gpt_oss", dict(num_hidden_layers=1, layer_types=["sliding_attention"], sliding_window=1,
        num_experts_per_tok=1)),
    ("smollm3", dict(no_rope_layers=[1, 0, 0], num_hidden_layers=3, **heads(3, 1, 16))),
    ("llama4_text", dict(num_hidden_layers=3, no_rope_layers=[1, 0, 1], attention_chunk_size=3,
        interleave_moe_layer_step=2, num_experts_per_tok=2,
        layer_types=["chunked_attention", "full_attention", "chunked_attention"], attn_temperature_tuning=True,
        floor_scale=4, use_qk_norm=False)),
    ("exaone4", dict(num_hidden_layers=3, sliding_window=2,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
    ("olmo2", dict(**heads(5, 5, 8), attention_bias=True)),
    ("olmo", dict(clip_qkv=0.3, **heads(3, 1, 16))),
    ("mamba", dict(num_hidden_layers=1, state_size=5, conv_kernel=2, use_conv_bias=False, use_bias=True, expand=1,
        intermediate_size=128, time_step_rank=3)),
    ("mamba2", dict(num_hidden_layers=3, num_heads=8, head_dim=32, n_groups=2, conv_kernel=3, state_size=6,
        chunk_size=5)),
    ("lfm2", dict(layer_types=["full_attention", "conv", "conv"], num_hidden_layers=3, conv_L_cache=2,
        conv_bias=True)),
    ("qwen3_next", dict(layer_types=["full_attention", "linear_attention", "linear_attention"], num_hidden_layers=3,
        linear_num_key_heads=1, linear_num_value_heads=3, linear_value_head_dim=24, linear_conv_kernel_dim=2)),
    ("jamba", dict(num_hidden_layers=5, attn_layer_period=3, attn_layer_offset=2, mamba_conv_bias=False)),
    ("falcon_h1", dict(num_hidden_layers=1)),
    ("bamba", dict(num_hidden_layers=3, attn_layer_indices=[0])),
    ("roberta", dict(pad_token_id=5, max_position_embeddings=60, num_hidden_layers=1, **heads(3, None, 12))),
    ("bert", dict(num_hidden_layers=1, max_position_embeddings=40, type_vocab_size=1, **heads(3, None, 10),
        hidden_act="relu")),
    ("bart", dict(decoder_attention_heads=3, encoder_attention_heads=3, d_model=48, decoder_layers=1,
        scale_embedding=True)),
    ("xglm", dict(attention_heads=3, d_model=48, num_layers=1, scale_embedding=False)),
    ("gpt_bigcode", dict(multi_query=False, num_key_value_heads=3, n_head=3, n_embd=30, n_layer=1,
        scale_attn_weights=False)),
    ("gpt_bigcode", dict(multi_query=True, n_head=5, n_embd=40, n_layer=3, attention_softmax_in_fp32=False)),
    ("nemotron", dict(partial_rotary_factor=0.25, head_dim=32, **heads(3, 1, hidden=64), attention_bias=True,
        mlp_bias=True)),
    ("glm", dict(head_dim=24, partial_rotary_factor=1.0, attention_bias=False, **heads(3, 1, hidden=64))),
    ("persimmon", dict(qk_layernorm=False, **heads(3, None, 16))),
    ("llama", dict(rope_parameters=LLAMA3, num_hidden_layers=2)),
    ("qwen3", dict(rope_parameters=YARN, head_dim=10, **heads(6, 3, hidden=60), attention_bias=True)),
    ("dbrx", dict(n_heads=6, d_model=48, attn_config={"kv_n_heads": 3, "clip_qkv": 0.5, "rope_theta": 10000.0},
        ffn_config={"hidden_size": 48, "ffn_hidden_size": 40, "moe_num_experts": 3, "moe_top_k": 1, "moe_normalize_expert_weights": None})),
    ("gpt_neo", dict(window_size=3, num_layers=3, attention_types=[[["local", "global", "local"], 1]], num_heads=5,
        hidden_size=60, max_position_embeddings=96)),
    ("deepseek_v32", dict(index_topk=32)),
    ("minimax_m3_vl_text", dict(layer_types=["full_attention", "minimax_m3_sparse"], index_block_size=16,
        index_topk_blocks=3, index_local_blocks=1, index_n_heads=4, index_head_dim=16)),
    ("deepseek_v4", dict(index_topk=512)),
    ("bailing_hybrid", dict(layer_types=["linear_attention"] * 2)),
    ("inkling_text", dict(log_scaling_n_floor=3, sliding_window_size=4, rel_extent=9)),
    ("xlnet", dict(clamp_len=3)),
    ("xmod", dict(languages=["en_XX", "de_DE", "fr_XX"], default_language="de_DE", adapter_layer_norm=True)),
]
# fmt: on


def named(number: int) -> str:
    """TYPE-NUMBER, for a report."""
    return f"{CASES[number][0]}-{number}"


def made(number: int) -> Any:
    """The configuration of a case."""
    model_type, changes = CASES[number]
    said = json.loads(tiny_config(model_type, VOCABULARY, END).to_json_string(use_diff=False)) | changes
    names, _ = WORDS["num_hidden_layers"]
    layers = next((said[name] for name in names if name in changes), None)
    for key, values in said.items():  # lists that say something of each layer follow their number
        by_layer = isinstance(values, list) and len(values) == 2 and all(isinstance(one, str | int) for one in values)
        if layers is not None and by_layer and key not in changes:
            said[key] = (values * layers)[:layers]
    return configuration(said)


def text(number: int) -> Text:
    """Rows that fit: another number of them, another length, another chunk for each case."""
    chance, changes = random.Random(number), CASES[number][1]
    words = changes.get("vocab_size", VOCABULARY)
    lengths = (3,) if "n_positions" in changes else chance.sample((1, 2, 3, 5, 7, 11, 13), chance.randint(2, 4))
    rows = tuple(tuple(chance.randrange(6, words) for _ in range(length)) for length in lengths)
    decoded = tuple(chance.randrange(6, words) for _ in range(8))
    ctx_len = max(lengths) + len(decoded) + (0 if "n_positions" in changes else chance.choice((0, 1, 3)))
    return Text(rows=rows, decoded=decoded, ctx_len=ctx_len, chunk=chance.randint(1, 6))
