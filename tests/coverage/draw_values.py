"""What a draw chooses from: values by the words that families have for them, and switches that are let alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    "vocab_size": (33, 97, 131, 257, 300, 1001),
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
# The sizes that transformers' own tests give to nearly every family.
USUAL: Mapping[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_kv_heads"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim"), 37),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 512),
    "vocab_size": 99,
}
# Switches of what is returned, of training, and of what the task is.
NOT_SWITCHED = frozenset({
    "use_bidirectional_attention", "return_dict", "is_encoder_decoder", "is_decoder", "is_encoder", "causal", "add_cross_attention",
    "torchscript", "tie_encoder_decoder", "output_attentions", "output_hidden_states", "output_router_logits",
    "use_bfloat16", "asm", "sinusoidal_embeddings", "use_lang_emb", "use_kernels", "use_mambapy", "use_fast_path",
    "use_mamba_kernels", "return_last_states", "use_mlm", "tie_word_embeddings",
})  # fmt: skip
