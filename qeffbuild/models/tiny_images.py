"""A model_type that sees -> a random model of it with three small layers in each half, and its real processor.

A family says here what its configuration is made of, which words stand for an image, and how its processor cuts one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError

_LAYERS = 3
_TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": _LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
_EYE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": _LAYERS, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip
_SIGLIP = {**_EYE, "model_type": "siglip_vision_model", "vision_use_head": False}
_CLIP = {**_EYE, "model_type": "clip_vision_model", "projection_dim": 32}
_LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_HALF = {**_MROPE, "partial_rotary_factor": 0.5}
_TILINGS = [[16, 32], [32, 16], [32, 32]]
_SQUARE = {"height": 16, "width": 16}
_IMAGE = {"image": "<image>"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """`processor` are the processor's own settings; `ids` maps a key of the configuration to one of `tokens`."""

    config: Mapping[str, Any]
    tokens: Mapping[str, str]
    ids: Mapping[str, str]
    cutter: str
    cutting: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)


def _llava(text: str, cutter: str, **more: Any) -> _Family:
    return _Family(
        config={"vision_config": _CLIP, "text_config": {"model_type": text, **_TEXT}, "image_seq_length": 16, **more},
        tokens=_IMAGE,
        ids={"image_token_index": "image"},
        cutter=cutter,
        cutting={"size": {"shortest_edge": 16}, "crop_size": _SQUARE, **more},
        processor={"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    )


def _qwen(vision: Mapping[str, Any], **text: Any) -> _Family:
    tokens = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    tokens |= {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    eye = {"depth": _LAYERS, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, **vision}
    merged = (2 * 4) ** 2  # pixels that become one token
    return _Family(
        config={"vision_config": eye, "text_config": {**_TEXT, "rope_parameters": _MROPE, **text}},
        tokens=tokens,
        ids={f"{name}_token_id": name for name in tokens},
        cutter="Qwen2VLImageProcessorPil",
        cutting={"patch_size": 4, "min_pixels": 4 * merged, "max_pixels": 24 * merged},
    )


def _idefics(cutter: str) -> _Family:
    named = {**_IMAGE, "fake_image": "<fake_token_around_image>", "global_image": "<global-img>"}
    tiles = {f"tile{row}{column}": f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)}
    return _Family(
        config={"vision_config": _EYE, "text_config": {"model_type": "llama", **_TEXT}, "scale_factor": 2},
        tokens={**named, **tiles, "end_of_utterance": "<end_of_utterance>", "video": "<video>"},
        ids={"image_token_id": "image"},
        cutter=cutter,
        cutting={"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}, "do_image_splitting": True},
        processor={"image_seq_len": 4},
    )


def _gemma3() -> _Family:
    text = {"model_type": "gemma3_text", **_TEXT, "sliding_window": 12, "query_pre_attn_scalar": 16}
    text |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    eye = {**_EYE, "model_type": "siglip_vision_model"}
    return _Family(
        config={"vision_config": eye, "text_config": text, "mm_tokens_per_image": 4},
        tokens={"image": "<image_soft_token>", "boi": "<start_of_image>", "eoi": "<end_of_image>"},
        ids={"image_token_id": "image", "boi_token_index": "boi", "eoi_token_index": "eoi"},
        cutter="Gemma3ImageProcessorPil",
        cutting={"size": _SQUARE},
        processor={"image_seq_length": 4},
    )


def _paligemma() -> _Family:
    text = {"model_type": "gemma", **_TEXT}
    return _Family(
        config={"vision_config": _SIGLIP, "text_config": text, "projection_dim": 64},
        tokens=_IMAGE,
        ids={"image_token_index": "image"},
        cutter="SiglipImageProcessorPil",
        cutting={"size": _SQUARE, "image_seq_length": 16},
    )


def _internvl() -> _Family:
    eye = {**_EYE, "image_size": [16, 16], "patch_size": [4, 4]}
    tokens = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    return _Family(
        config={"vision_config": eye, "text_config": {"model_type": "qwen2", **_TEXT}, "image_seq_length": 4},
        tokens=tokens,
        ids={"image_token_id": "context_image"},
        cutter="GotOcr2ImageProcessorPil",
        cutting={"size": _SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4},
        processor={"image_seq_length": 4},
    )


def _mistral3() -> _Family:
    eye = {**_EYE, "model_type": "pixtral", "image_size": 32, "head_dim": 8}
    parts = {"patch_size": 4, "spatial_merge_size": 2}
    return _Family(
        config={
            "vision_config": eye,
            "text_config": {"model_type": "mistral", **_TEXT},
            "spatial_merge_size": 2,
            "vision_feature_layer": -1,
        },
        tokens={"image": "[IMG]", "image_break": "[IMG_BREAK]", "image_end": "[IMG_END]"},
        ids={"image_token_index": "image"},
        cutter="PixtralImageProcessorPil",
        cutting={"size": {"longest_edge": 32}, "patch_size": {"height": 4, "width": 4}},
        processor=parts,
    )


def _aya_vision() -> _Family:
    text = {"model_type": "cohere2", **_TEXT, "sliding_window": 12}
    text |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    tokens = {**_IMAGE, "start_of_img": "<|START_OF_IMG|>", "end_of_img": "<|END_OF_IMG|>"}
    tokens |= {"img_patch": "<|IMG_PATCH|>", "img_line_break": "<|IMG_LINE_BREAK|>"}
    tokens |= {"tile": "TILE", "tile_global": "TILE_GLOBAL"}
    sizes = {"downsample_factor": 2, "alignment_intermediate_size": 32}
    return _Family(
        config={"vision_config": _SIGLIP, "text_config": text, **sizes},
        tokens=tokens,
        ids={"image_token_index": "img_patch"},
        cutter="GotOcr2ImageProcessorPil",
        cutting={"size": _SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4},
        processor={"patch_size": 4, "img_size": 16, "downsample_factor": 2},
    )


def _llava_onevision() -> _Family:
    tiled = {"image_grid_pinpoints": _TILINGS, "vision_aspect_ratio": "anyres_max_4", "vision_feature_layer": -1}
    return _Family(
        config={"vision_config": _SIGLIP, "text_config": {"model_type": "qwen2", **_TEXT}, **tiled},
        tokens={**_IMAGE, "video": "<video>"},
        ids={"image_token_index": "image", "video_token_index": "video"},
        cutter="LlavaOnevisionImageProcessorPil",
        cutting={"size": _SQUARE, "image_grid_pinpoints": _TILINGS},
        processor={
            "num_image_tokens": 16,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_4",
        },
    )


def _glm4v() -> _Family:
    eye = {"depth": _LAYERS, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "image_size": 16, **_OUT}
    named = ("image_start", "image_end", "video_start", "video_end", "image", "video")
    words = ("begin_of_image", "end_of_image", "begin_of_video", "end_of_video", "image", "video")
    return _Family(
        config={
            "vision_config": eye,
            "text_config": {**_TEXT, "rope_parameters": {**_HALF, "mrope_section": [1, 1, 2]}},
        },
        tokens={name: f"<|{word}|>" for name, word in zip(named, words, strict=True)},
        ids={f"{name}_token_id": name for name in named},
        cutter="Glm4vImageProcessorPil",
        cutting={"patch_size": 4, "size": {"shortest_edge": 4 * 64, "longest_edge": 48 * 64}},
    )


_OUT = {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64}
_FAMILIES: Mapping[str, _Family] = {
    "aya_vision": _aya_vision(),
    "gemma3": _gemma3(),
    "glm4v": _glm4v(),
    "idefics3": _idefics("Idefics3ImageProcessorPil"),
    "internvl": _internvl(),
    "llava": _llava("llama", "CLIPImageProcessorPil"),
    "llava_next": _llava("mistral", "LlavaNextImageProcessorPil", image_grid_pinpoints=_TILINGS),
    "llava_onevision": _llava_onevision(),
    "mistral3": _mistral3(),
    "paligemma": _paligemma(),
    "qwen2_5_vl": _qwen({**_OUT, "window_size": 16, "fullatt_block_indexes": [1]}),
    "qwen2_vl": _qwen({"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}),
    "qwen3_5": _qwen(
        {**_OUT, "num_position_embeddings": 64}, **_LINEAR, rope_parameters={**_HALF, "mrope_section": [2, 1, 1]}
    ),
    "qwen3_vl": _qwen({**_OUT, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 2]}),
    "qwen3_vl_moe": _qwen({**_OUT, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 2]}, **_EXPERTS),
    "smolvlm": _idefics("SmolVLMImageProcessorPil"),
    "vipllava": _llava("llama", "CLIPImageProcessorPil", vision_feature_layers=[-2, -3, 1]),
}
FAMILIES = tuple(_FAMILIES)


def write_tiny_seeing(folder: Path, model_type: str, *, seed: int, tokenizer: Path) -> None:
    """Write the model, its processor, and `tokenizer` with the family's own words; the same bytes for one seed."""
    import torch
    import transformers

    from qeffbuild.models.processor import class_of

    if model_type not in _FAMILIES:
        found = f"model.scale: no tiny {model_type} is known"
        raise ModelError("model.unsupported", found, hint=f"those that see are {', '.join(FAMILIES)}")
    family = _FAMILIES[model_type]
    words = _tokenizer(tokenizer, family.tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(_config(model_type, family, words)).eval()
        _randomise(model)
    end = words.eos_token_id
    model.generation_config = transformers.GenerationConfig(bos_token_id=end, eos_token_id=end, pad_token_id=end)
    model.save_pretrained(folder)
    getattr(transformers, family.cutter)(**family.cutting).save_pretrained(folder)
    words.save_pretrained(folder)
    said = {"processor_class": class_of(model_type).__name__, **family.processor}
    (folder / "processor_config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def _config(model_type: str, family: _Family, words: Any) -> Any:
    from transformers import CONFIG_MAPPING

    ids = {key: getattr(words, f"{name}_token_id") for key, name in family.ids.items()}
    config = CONFIG_MAPPING[model_type].from_dict(json.loads(json.dumps({**family.config, **ids})))
    text, end = config.get_text_config(), words.eos_token_id
    text.vocab_size, text.bos_token_id, text.eos_token_id, text.pad_token_id = len(words), end, end, end
    config.tie_word_embeddings = text.tie_word_embeddings = False
    return config


def _tokenizer(folder: Path, named: Mapping[str, str]) -> Any:
    """The tokenizer in `folder` with more words, each of which it knows by its name, too."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    known = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=known._tokenizer,
        eos_token=known.eos_token,
        bos_token=known.eos_token,
        pad_token=known.eos_token,
        additional_special_tokens=list(named.values()),
        extra_special_tokens={f"{name}_token": token for name, token in named.items()},
    )


def _randomise(model: Any) -> None:
    """Weights and biases that matter: transformers starts matrices so small that every token comes out the same."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(noise * 0.1)
