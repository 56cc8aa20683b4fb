"""More small random models of families that see; what they are made of, as in tiny_families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qeffbuild.models.tiny_families import EYE, IMAGE, SIGLIP, SLIDING, SQUARE, TEXT, Family


def _llama4() -> Family:
    text: dict[str, Any] = {
        **TEXT, "model_type": "llama4_text", "intermediate_size_mlp": 128, "num_local_experts": 4,
        "interleave_moe_layer_step": 2, "attention_chunk_size": 16, "no_rope_layers": [1, 0, 1],
        "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
    }  # fmt: skip
    eye: dict[str, Any] = {
        **EYE, "model_type": "llama4_vision_model", "vision_output_dim": 48, "projector_input_dim": 48,
        "projector_output_dim": 48, "intermediate_size": 128,
    }  # fmt: skip
    words = ("image_start", "image_end", "tile_x_separator", "tile_y_separator", "patch", "image")
    return Family(
        config={"vision_config": eye, "text_config": text},
        tokens={word: f"<|{word}|>" for word in words},
        ids={"image_token_index": "patch", "boi_token_index": "image_start", "eoi_token_index": "image_end"},
        cutter="Llama4ImageProcessor",
        cutting={"size": SQUARE, "max_patches": 4},
        processor={"patch_size": 4},
    )


def _cohere2_vision() -> Family:
    tokens = {**IMAGE, "boi": "<|START_OF_IMG|>", "eoi": "<|END_OF_IMG|>", "img_line_break": "<|IMG_LINE_BREAK|>"}
    return Family(
        config={
            "vision_config": SIGLIP,
            "text_config": {"model_type": "cohere2", **TEXT, **SLIDING},
            "alignment_intermediate_size": 64,
        },
        tokens=tokens,
        ids={"image_token_id": "image"},
        cutter="Cohere2VisionImageProcessor",
        cutting={"size": SQUARE, "patch_size": 2, "max_patches": 4},
    )


def _lfm2_vl() -> Family:
    tiles = {f"tile{row}{column}": f"<|img_row_{row}_col_{column}|>" for row in range(1, 4) for column in range(1, 4)}
    text = {"model_type": "lfm2", **TEXT, "layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 128}
    eye = {**EYE, "model_type": "siglip2_vision_model", "num_patches": 16, "vision_use_head": False}
    words = {"image_start": "<|image_start|>", "image_end": "<|image_end|>", "thumb": "<|img_thumbnail|>"}
    return Family(
        config={"vision_config": eye, "text_config": text, "projector_hidden_size": 64},
        tokens={**IMAGE, **words, **tiles},
        ids={"image_token_id": "image"},
        cutter="Lfm2VlImageProcessor",
        cutting={
            "encoder_patch_size": 4,
            "tile_size": 16,
            "min_image_tokens": 2,
            "max_image_tokens": 6,
            "max_tiles": 4,
        },
    )


def _deepseek_vl() -> Family:
    return Family(
        config={"vision_config": SIGLIP, "text_config": {"model_type": "llama", **TEXT}},
        tokens=IMAGE,
        ids={"image_token_id": "image"},
        cutter="DeepseekVLImageProcessorPil",
        cutting={"size": SQUARE, "min_size": 4},
        processor={"num_image_tokens": 16},
    )


def _ernie4_5_vl_moe() -> Family:
    eye = {"depth": 3, "num_heads": 4, "patch_size": 4, "hidden_size": 32, "intermediate_size": 64}
    text: dict[str, Any] = {
        **TEXT, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_intermediate_size": [32, 32],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]},
    }  # fmt: skip
    words = ("image", "image_end", "image_start", "video", "video_end", "video_start")
    return Family(
        config={"vision_config": eye, "text_config": text},
        tokens={word: f"<|{word}|>" for word in words},
        ids={f"{word}_token_id": word for word in words},
        cutter="Ernie4_5_VLMoeImageProcessorPil",
        cutting={"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 1536}},
    )


MORE: Mapping[str, Family] = {
    "cohere2_vision": _cohere2_vision(),
    "deepseek_vl": _deepseek_vl(),
    "ernie4_5_vl_moe": _ernie4_5_vl_moe(),
    "lfm2_vl": _lfm2_vl(),
    "llama4": _llama4(),
}
