"""Small random models of images and text with real processors: one folder for each family, as transformers saves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

WORDS = [f"w{number}" for number in range(150)]
TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "tie_word_embeddings": False}
CLIP = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
CLIP |= {"num_attention_heads": 4, "image_size": 16, "patch_size": 4, "projection_dim": 32}
SIGLIP = {key: value for key, value in CLIP.items() if key != "projection_dim"} | {"model_type": "siglip_vision_model"}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
QWEN_TOKENS = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>", "image": "<|image_pad|>"}
QWEN_TOKENS |= {"video": "<|video_pad|>"}
SQUARE = {"size": {"height": 16, "width": 16}}


def _tokenizer(**named: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<pad>", *named.values()]
    vocabulary = {word: place for place, word in enumerate([*special, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(named.values()),
        extra_special_tokens={f"{name}_token": token for name, token in named.items()},
    )


def _llava() -> tuple[Any, Any, dict[str, Any], str]:
    from transformers import CLIPImageProcessorPil

    tokenizer = _tokenizer(image="<image>")
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    parts = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    config = {"vision_config": CLIP, "text_config": {"model_type": "llama", **TEXT}, "image_seq_length": 16}
    return images, tokenizer, parts, json.dumps(config | {"image_token_index": tokenizer.image_token_id})


def _llava_next() -> tuple[Any, Any, dict[str, Any], str]:
    from transformers import LlavaNextImageProcessorPil

    tokenizer = _tokenizer(image="<image>")
    pinpoints = [[16, 32], [32, 16], [32, 32]]
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints
    )
    parts = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    config = {"vision_config": CLIP, "text_config": {"model_type": "mistral", **TEXT}, "image_seq_length": 16}
    config |= {"image_grid_pinpoints": pinpoints, "image_token_index": tokenizer.image_token_id}
    return images, tokenizer, parts, json.dumps(config)


def _qwen(vision: dict[str, Any], text: dict[str, Any], patch: int) -> tuple[Any, Any, dict[str, Any], str]:
    from transformers import Qwen2VLImageProcessorPil

    tokenizer = _tokenizer(**QWEN_TOKENS)
    unit = (2 * patch) ** 2
    images = Qwen2VLImageProcessorPil(patch_size=patch, min_pixels=4 * unit, max_pixels=24 * unit)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in QWEN_TOKENS}
    vision = {"depth": 3, "num_heads": 4, "patch_size": patch, "spatial_merge_size": 2, **vision}
    return images, tokenizer, {}, json.dumps({"vision_config": vision, "text_config": {**TEXT, **text}, **ids})


def _qwen2_vl() -> tuple[Any, Any, dict[str, Any], str]:
    return _qwen({"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}, {"rope_parameters": MROPE}, 4)


def _qwen2_5_vl() -> tuple[Any, Any, dict[str, Any], str]:
    vision = {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "window_size": 16}
    return _qwen({**vision, "fullatt_block_indexes": [1]}, {"rope_parameters": MROPE}, 4)


def _qwen3_vl() -> tuple[Any, Any, dict[str, Any], str]:
    vision = {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "num_position_embeddings": 64}
    return _qwen({**vision, "deepstack_visual_indexes": [0, 2]}, {"rope_parameters": MROPE}, 4)


def _gemma3() -> tuple[Any, Any, dict[str, Any], str]:
    from transformers import Gemma3ImageProcessorPil

    tokenizer = _tokenizer(image="<image_soft_token>", boi="<start_of_image>", eoi="<end_of_image>")
    text = {"model_type": "gemma3_text", **TEXT, "sliding_window": 12, "query_pre_attn_scalar": 16}
    text |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    ids = {"image_token_id": tokenizer.image_token_id, "boi_token_index": tokenizer.boi_token_id}
    config = {"vision_config": SIGLIP, "text_config": text, "mm_tokens_per_image": 4, **ids}
    config |= {"eoi_token_index": tokenizer.eoi_token_id}
    return Gemma3ImageProcessorPil(**SQUARE), tokenizer, {"image_seq_length": 4}, json.dumps(config)


def _internvl() -> tuple[Any, Any, dict[str, Any], str]:
    from transformers import GotOcr2ImageProcessorPil

    named = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    tokenizer = _tokenizer(**named)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision |= {"image_size": [16, 16], "patch_size": [4, 4]}
    config = {"vision_config": vision, "text_config": {"model_type": "qwen2", **TEXT}, "image_seq_length": 4}
    images = GotOcr2ImageProcessorPil(**SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)
    parts = {"image_seq_length": 4}
    return images, tokenizer, parts, json.dumps(config | {"image_token_id": tokenizer.context_image_token_id})


def _mistral3() -> tuple[Any, Any, dict[str, Any], str]:
    from transformers import PixtralImageProcessorPil

    tokenizer = _tokenizer(image="[IMG]", image_break="[IMG_BREAK]", image_end="[IMG_END]")
    images = PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size={"height": 4, "width": 4})
    vision = {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    vision |= {"num_attention_heads": 4, "image_size": 32, "patch_size": 4, "head_dim": 8}
    config = {"vision_config": vision, "text_config": {"model_type": "mistral", **TEXT}, "spatial_merge_size": 2}
    config |= {"image_token_index": tokenizer.image_token_id, "vision_feature_layer": -1}
    return images, tokenizer, {"patch_size": 4, "spatial_merge_size": 2}, json.dumps(config)


def _idefics(name: str) -> tuple[Any, Any, dict[str, Any], str]:
    import transformers

    named = {"image": "<image>", "fake_image": "<fake_token_around_image>", "global_image": "<global-img>"}
    tiles = {f"tile{row}{col}": f"<row_{row}_col_{col}>" for row in range(1, 4) for col in range(1, 4)}
    tokenizer = _tokenizer(**named, **tiles, end_of_utterance="<end_of_utterance>", video="<video>")
    images = getattr(transformers, f"{name}ImageProcessorPil")(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=True
    )
    vision = {key: value for key, value in SIGLIP.items() if key != "model_type"}
    config = {"vision_config": vision, "text_config": {"model_type": "llama", **TEXT}, "scale_factor": 2}
    return images, tokenizer, {"image_seq_len": 4}, json.dumps(config | {"image_token_id": tokenizer.image_token_id})


def _idefics3() -> tuple[Any, Any, dict[str, Any], str]:
    return _idefics("Idefics3")


def _smolvlm() -> tuple[Any, Any, dict[str, Any], str]:
    return _idefics("SmolVLM")


FAMILIES = {
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "gemma3": _gemma3,
    "internvl": _internvl,
    "mistral3": _mistral3,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
}


def write(folder: Path, family: str) -> Path:
    """The model's folder, weights and processor included."""
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, GenerationConfig

    from qeffbuild.models.processor import class_of

    images, tokenizer, parts, said = FAMILIES[family]()
    vocabulary = len(tokenizer)
    config = CONFIG_MAPPING[family].from_dict(json.loads(said))
    text = config.get_text_config()
    text.vocab_size, text.bos_token_id, text.eos_token_id, text.pad_token_id = vocabulary, 1, 2, 3
    config.tie_word_embeddings = text.tie_word_embeddings = False
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(noise * parameter[0].numel() ** -0.5) if parameter.dim() > 1 else parameter.add_(
                noise * 0.1
            )
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=3)
    model.save_pretrained(folder)
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = json.dumps({"processor_class": class_of(family).__name__, **parts}, indent=1)
    (folder / "processor_config.json").write_text(said)
    return folder


def picture(width: int = 40, height: int = 28, seed: int = 0) -> Any:
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8))
