"""What small models are made of: a size for each word that a family may have for it, and what is special to some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A small size -> the words that families have for what gets it. Heads of 16, eight of them, share four KV heads.
SIZES: Mapping[int, str] = {
    128: "hidden_size hidden_size_global d_model n_embd dim embedding_size embed_dim word_embed_proj_dim "
    "attention_hidden_size lru_width attn_hidden_size model_dim emb_dim embedding_dim decoder_hidden_size "
    "decoder_hidden_dim hidden_dim",
    256: "intermediate_size ffn_dim d_ff d_inner decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size dff dim_ff "
    "mlp_hidden_size intermediate_dim mamba_intermediate_size mamba_d_ssm speech_encoder_intermediate_size",
    64: "moe_intermediate_size moe_ffn_hidden_size shared_expert_intermediate_size shared_intermediate_size "
    "moe_shared_expert_intermediate_size expert_intermediate_size expert_ffn_hidden_size bottleneck_size "
    "moe_latent_size",
    2: "num_hidden_layers num_layers n_layer n_layers decoder_layers num_decoder_layers encoder_layers num_blocks "
    "num_encoder_layers num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts expert_top_k "
    "max_window_layers mamba_expand expand o_groups altup_num_inputs linear_num_key_heads speech_encoder_layers",
    8: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads "
    "num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads rotary_dim mamba_d_state "
    "ssm_state_size state_size mamba_dt_rank mamba_chunk_size time_step_rank chunk_size adapter_rank laurel_rank "
    "hidden_size_per_layer_input num_buckets index_topk indexer_budget speech_encoder_attention_heads",
    4: "num_key_value_heads num_kv_heads n_kv_heads n_head_kv multi_query_group_num swa_num_key_value_heads "
    "num_experts n_routed_experts num_local_experts moe_num_experts n_experts linear_num_value_heads "
    "linear_conv_kernel_dim mamba_d_conv indexer_compress_ratio",
    16: "head_dim attention_head_size qk_nope_head_dim qk_rope_head_dim v_head_dim kv_lora_rank linear_key_head_dim "
    "linear_value_head_dim linear_head_dim sliding_window attention_window_size attention_chunk_size window_size "
    "local_attention encoder_hash_byte_group_vocab global_head_dim dim_head swa_head_dim swa_v_head_dim "
    "index_head_dim indexer_head_dim o_lora_rank index_n_heads indexer_n_heads mamba_d_head mamba_head_dim "
    "mamba_headdim mamba_n_heads mamba_num_heads",
    32: "q_lora_rank qk_head_dim",
    1: "n_group topk_group num_expert_group n_shared_experts num_shared_experts first_k_dense_replace n_groups "
    "mamba_n_groups mamba_ngroups num_random_blocks zero_expert_num indexer_kv_heads",
    0: "num_kv_shared_layers num_nextn_predict_layers",
}
# (An indexer has 16 heads, too: with few, scores behind a ReLU are often all zero, and what is chosen is chance.)
# Set even where the family's default is to leave them out.
FILL_IN = frozenset({"num_key_value_heads"})

_HYBRID = ["mamba", "hybrid", "mamba", "hybrid"]
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

_PADDING_APART = ("m2m_100", "mbart", "plbart", "seamless_m4t", "seamless_m4t_v2", "speech_to_text", "speecht5")

# What a family needs beyond its sizes, so that a small configuration is a possible one.
CORRECTIONS: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 4, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": 128, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    # Layers with a window have sizes of their own.
    "dots3_note_text": {
        "swa_num_attention_heads": 8,
        "swa_num_key_value_heads": 8,
        "swa_head_dim": 32,
        "swa_qk_nope_head_dim": 16,
        "swa_v_head_dim": 16,
        "swa_q_lora_rank": 32,
        "swa_kv_lora_rank": 16,
    },
    "esmc": {"num_key_value_heads": 8},
    "falcon": {"new_decoder_architecture": True},  # the form that has grouped KV heads
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "granitemoehybrid": {"layers_block_type": ["linear_attention", "full_attention"]},
    "granite_speech5_encoder": {"num_key_value_heads": 8},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "layoutlmv3": {"coordinate_size": 24, "shape_size": 16},  # four and two of them make the width
    "lilt": {"hidden_size": 192},  # six coordinates share it
    "llama_swiftkv": {"swiftkv": True, "num_hidden_layers": 4, "num_key_value_layers": 2},
    "mamba2": {"num_heads": 16},  # times head_dim: expand times hidden_size
    "ministral": {"head_dim": 16},
    "moonshine_streaming": {"num_key_value_heads": 8},
    # They count without padding, so that must not be what a text begins or ends with.
    **{name: {"pad_token_id": 1} for name in _PADDING_APART},
    "mistral4": {"head_dim": 32},  # the parts with and without rotation
    # Else no layer of two has experts.
    "nllb-moe": {"encoder_sparse_step": 1, "decoder_sparse_step": 1, "pad_token_id": 1},
    "qwen4_exp_text": {
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"]},
    "rwkv": {"attention_hidden_size": 128},
    "xlstm": {"num_heads": 2, "qk_dim_factor": 0.5, "v_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layer_types": _HYBRID,
        "attention_head_dim": 32,
        "attention_hidden_size": 256,
        "n_mamba_heads": 2,
    },
    "zamba2": {
        "num_hidden_layers": 2,
        "layer_types": _HYBRID[:2],
        "attention_head_dim": 32,
        "attention_hidden_size": 256,
        "n_mamba_heads": 16,
    },
    "zaya": {"num_experts_per_tok": 1},
}

# And what those need that go on with a text, and are no decoders by themselves.
AS_DECODER: Mapping[str, Mapping[str, Any]] = {
    "reformer": {"is_decoder": True},
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},  # by default a token sees those behind it, too
}
