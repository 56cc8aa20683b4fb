"""What a small random model of each family that sees is made of, which words stand for an image, how one is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

_LAYERS = 3
TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": _LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
EYE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": _LAYERS, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip
SIGLIP = {**EYE, "model_type": "siglip_vision_model", "vision_use_head": False}
_CLIP = {**EYE, "model_type": "clip_vision_model", "projection_dim": 32}
_LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
SLIDING = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_HALF = {**_MROPE, "partial_rotary_factor": 0.5}
_TILINGS = [[16, 32], [32, 16], [32, 32]]
SQUARE = {"height": 16, "width": 16}
IMAGE = {"image": "<image>"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`processor` are the processor's own settings; `ids` maps a key of the configuration to one of `tokens`."""

    config: Mapping[str, Any]
    tokens: Mapping[str, str]
    ids: Mapping[str, str]
    cutter: str
    cutting: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)


def _llava(text: str, cutter: str, **more: Any) -> Family:
    return Family(
        config={"vision_config": _CLIP, "text_config": {"model_type": text, **TEXT}, "image_seq_length": 16, **more},
        tokens=IMAGE,
        ids={"image_token_index": "image"},
        cutter=cutter,
        cutting={"size": {"shortest_edge": 16}, "crop_size": SQUARE, **more},
        processor={"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    )


def _qwen(vision: Mapping[str, Any], **text: Any) -> Family:
    tokens = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    tokens |= {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    eye = {"depth": _LAYERS, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, **vision}
    merged = (2 * 4) ** 2  # pixels that become one token
    return Family(
        config={"vision_config": eye, "text_config": {**TEXT, "rope_parameters": _MROPE, **text}},
        tokens=tokens,
        ids={f"{name}_token_id": name for name in tokens},
        cutter="Qwen2VLImageProcessorPil",
        cutting={"patch_size": 4, "min_pixels": 4 * merged, "max_pixels": 24 * merged},
    )


def _idefics(cutter: str) -> Family:
    named = {**IMAGE, "fake_image": "<fake_token_around_image>", "global_image": "<global-img>"}
    tiles = {f"tile{row}{column}": f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)}
    return Family(
        config={"vision_config": EYE, "text_config": {"model_type": "llama", **TEXT}, "scale_factor": 2},
        tokens={**named, **tiles, "end_of_utterance": "<end_of_utterance>", "video": "<video>"},
        ids={"image_token_id": "image"},
        cutter=cutter,
        cutting={"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}, "do_image_splitting": True},
        processor={"image_seq_len": 4},
    )


def _gemma3() -> Family:
    text = {"model_type": "gemma3_text", **TEXT, **SLIDING, "query_pre_attn_scalar": 16}
    eye = {**EYE, "model_type": "siglip_vision_model"}
    return Family(
        config={"vision_config": eye, "text_config": text, "mm_tokens_per_image": 4},
        tokens={"image": "<image_soft_token>", "boi": "<start_of_image>", "eoi": "<end_of_image>"},
        ids={"image_token_id": "image", "boi_token_index": "boi", "eoi_token_index": "eoi"},
        cutter="Gemma3ImageProcessorPil",
        cutting={"size": SQUARE},
        processor={"image_seq_length": 4},
    )


def _paligemma() -> Family:
    text = {"model_type": "gemma", **TEXT}
    return Family(
        config={"vision_config": SIGLIP, "text_config": text, "projection_dim": 64},
        tokens=IMAGE,
        ids={"image_token_index": "image"},
        cutter="SiglipImageProcessorPil",
        cutting={"size": SQUARE, "image_seq_length": 16},
    )


def _exaone4_5() -> Family:
    qwen = _qwen({**_OUT, "window_size": 16, "fullatt_block_indexes": [1], "num_key_value_heads": 2})
    text = {"model_type": "exaone4", **TEXT, **SLIDING}
    return replace(qwen, config={**qwen.config, "text_config": text})


def _glm4v_moe() -> Family:
    glm = _glm4v()
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
    text = {**glm.config["text_config"], **experts, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    return replace(glm, config={**glm.config, "text_config": text})


def _idefics2() -> Family:
    resampler = {"resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 16}
    resampler |= {"num_key_value_heads": 2, "hidden_size": 64}
    text = {"model_type": "mistral", **TEXT}
    return Family(
        config={"vision_config": EYE, "text_config": text, "perceiver_config": resampler},
        tokens={**IMAGE, "image_boundary": "<fake_token_around_image>", "end_of_utterance": "<end_of_utterance>"},
        ids={"image_token_id": "image"},
        cutter="Idefics2ImageProcessorPil",
        cutting={"size": {"shortest_edge": 16, "longest_edge": 16}, "do_image_splitting": False},
        processor={"image_seq_len": 4},
    )


def _lighton_ocr() -> Family:
    mistral = _mistral3()
    config = {**mistral.config, "text_config": {"model_type": "qwen3", **TEXT}}
    del config["vision_feature_layer"]
    tokens = {"image": "<|image_pad|>", "image_break": "<|vision_pad|>", "image_end": "<|vision_end|>"}
    return replace(mistral, config=config, tokens=tokens, ids={"image_token_id": "image"})


def _llava_next_video() -> Family:
    still = _llava("llama", "LlavaNextImageProcessorPil", image_grid_pinpoints=_TILINGS)
    ids = {"image_token_index": "image", "video_token_index": "video"}
    return replace(still, tokens={**IMAGE, "video": "<video>"}, ids=ids)


def _paddleocr_vl() -> Family:
    qwen = _qwen({})
    least, most = 4 * 64, 24 * 64
    cutting = {"patch_size": 4, "min_pixels": least, "max_pixels": most}
    return replace(
        qwen,
        config={**qwen.config, "vision_config": {**EYE, "spatial_merge_size": 2}},
        cutter="PaddleOCRVLImageProcessorPil",
        cutting={**cutting, "size": {"shortest_edge": least, "longest_edge": most}},
    )


def _video_llama_3() -> Family:
    return Family(
        config={"vision_config": EYE, "text_config": {"model_type": "qwen2", **TEXT}},
        tokens={**IMAGE, "video": "<video>"},
        ids={"image_token_id": "image", "video_token_id": "video"},
        cutter="VideoLlama3ImageProcessorPil",
        cutting={"patch_size": 4, "min_pixels": 256, "max_pixels": 1536},
    )


def _internvl() -> Family:
    eye = {**EYE, "image_size": [16, 16], "patch_size": [4, 4]}
    tokens = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    return Family(
        config={"vision_config": eye, "text_config": {"model_type": "qwen2", **TEXT}, "image_seq_length": 4},
        tokens=tokens,
        ids={"image_token_id": "context_image"},
        cutter="GotOcr2ImageProcessorPil",
        cutting={"size": SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4},
        processor={"image_seq_length": 4},
    )


def _mistral3() -> Family:
    eye = {**EYE, "model_type": "pixtral", "image_size": 32, "head_dim": 8}
    parts = {"patch_size": 4, "spatial_merge_size": 2}
    return Family(
        config={
            "vision_config": eye,
            "text_config": {"model_type": "mistral", **TEXT},
            "spatial_merge_size": 2,
            "vision_feature_layer": -1,
        },
        tokens={"image": "[IMG]", "image_break": "[IMG_BREAK]", "image_end": "[IMG_END]"},
        ids={"image_token_index": "image"},
        cutter="PixtralImageProcessorPil",
        cutting={"size": {"longest_edge": 32}, "patch_size": {"height": 4, "width": 4}},
        processor=parts,
    )


def _aya_vision() -> Family:
    text = {"model_type": "cohere2", **TEXT, **SLIDING}
    tokens = {**IMAGE, "start_of_img": "<|START_OF_IMG|>", "end_of_img": "<|END_OF_IMG|>"}
    tokens |= {"img_patch": "<|IMG_PATCH|>", "img_line_break": "<|IMG_LINE_BREAK|>"}
    tokens |= {"tile": "TILE", "tile_global": "TILE_GLOBAL"}
    sizes = {"downsample_factor": 2, "alignment_intermediate_size": 32}
    return Family(
        config={"vision_config": SIGLIP, "text_config": text, **sizes},
        tokens=tokens,
        ids={"image_token_index": "img_patch"},
        cutter="GotOcr2ImageProcessorPil",
        cutting={"size": SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4},
        processor={"patch_size": 4, "img_size": 16, "downsample_factor": 2},
    )


def _llava_onevision() -> Family:
    tiled = {"image_grid_pinpoints": _TILINGS, "vision_aspect_ratio": "anyres_max_4", "vision_feature_layer": -1}
    return Family(
        config={"vision_config": SIGLIP, "text_config": {"model_type": "qwen2", **TEXT}, **tiled},
        tokens={**IMAGE, "video": "<video>"},
        ids={"image_token_index": "image", "video_token_index": "video"},
        cutter="LlavaOnevisionImageProcessorPil",
        cutting={"size": SQUARE, "image_grid_pinpoints": _TILINGS},
        processor={
            "num_image_tokens": 16,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_4",
        },
    )


def _glm4v() -> Family:
    eye = {"depth": _LAYERS, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "image_size": 16, **_OUT}
    named = ("image_start", "image_end", "video_start", "video_end", "image", "video")
    words = ("begin_of_image", "end_of_image", "begin_of_video", "end_of_video", "image", "video")
    return Family(
        config={
            "vision_config": eye,
            "text_config": {**TEXT, "rope_parameters": {**_HALF, "mrope_section": [1, 1, 2]}},
        },
        tokens={name: f"<|{word}|>" for name, word in zip(named, words, strict=True)},
        ids={f"{name}_token_id": name for name in named},
        cutter="Glm4vImageProcessorPil",
        cutting={"patch_size": 4, "size": {"shortest_edge": 4 * 64, "longest_edge": 48 * 64}},
    )


_OUT = {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64}
TABLE: Mapping[str, Family] = {
    "aya_vision": _aya_vision(),
    "exaone4_5": _exaone4_5(),
    "gemma3": _gemma3(),
    "glm46v": replace(_glm4v(), cutter="Glm46VImageProcessorPil"),
    "glm4v": _glm4v(),
    "glm4v_moe": _glm4v_moe(),
    "idefics2": _idefics2(),
    "idefics3": _idefics("Idefics3ImageProcessorPil"),
    "internvl": _internvl(),
    "lighton_ocr": _lighton_ocr(),
    "llava": _llava("llama", "CLIPImageProcessorPil"),
    "llava_next": _llava("mistral", "LlavaNextImageProcessorPil", image_grid_pinpoints=_TILINGS),
    "llava_next_video": _llava_next_video(),
    "llava_onevision": _llava_onevision(),
    "mistral3": _mistral3(),
    "paddleocr_vl": _paddleocr_vl(),
    "paligemma": _paligemma(),
    "qwen2_5_vl": _qwen({**_OUT, "window_size": 16, "fullatt_block_indexes": [1]}),
    "qwen2_vl": _qwen({"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}),
    "qwen3_5": _qwen(
        {**_OUT, "num_position_embeddings": 64}, **_LINEAR, rope_parameters={**_HALF, "mrope_section": [2, 1, 1]}
    ),
    "qwen3_5_moe": _qwen(
        {**_OUT, "num_position_embeddings": 64},
        **_LINEAR,
        **_EXPERTS,
        shared_expert_intermediate_size=32,
        rope_parameters={**_HALF, "mrope_section": [2, 1, 1]},
    ),
    "qwen3_vl": _qwen({**_OUT, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 2]}),
    "qwen3_vl_moe": _qwen({**_OUT, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 2]}, **_EXPERTS),
    "smolvlm": _idefics("SmolVLMImageProcessorPil"),
    "video_llama_3": _video_llama_3(),
    "vipllava": _llava("llama", "CLIPImageProcessorPil", vision_feature_layers=[-2, -3, 1]),
}
