"""A recorded configuration of a model that sees -> the image processor of its family, and the words that it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]
Made = tuple[Any, dict[str, Any], dict[str, str]]  # image processor, what the processor is told, attribute -> token


def sees(config: Config) -> bool:
    return config.get("model_type") in _FAMILIES


def words_of(config: Config) -> dict[str, tuple[int, str]]:
    """Attribute of the tokenizer -> id and token. Those without an id in the configuration come last in the vocabulary."""
    named = _FAMILIES[config["model_type"]](config)[2]
    text = config.get("text_config") or config
    known = {name: place for name in named if (place := _id(config, name)) is not None}
    free = (place for place in range(text.get("vocab_size", 320) - 1, 2, -1) if place not in known.values())
    return {f"{name}_token": (known[name] if name in known else next(free), token) for name, token in named.items()}


def write_processor(folder: Path, config: Config) -> None:
    from qeffbuild.models.processor import class_of

    images, told, _ = _FAMILIES[config["model_type"]](config)
    images.save_pretrained(folder)
    said = {"processor_class": class_of(config["model_type"]).__name__, **told}
    (folder / "processor_config.json").write_text(json.dumps(said, indent=1))


def _id(config: Config, name: str) -> int | None:
    short = name.removeprefix("context_")
    keys = (f"{short}_token_id", f"{short}_token_index")
    return next((config[key] for key in keys if config.get(key) is not None), None)


def _side(config: Config, name: str, other: int) -> int:
    said = config.get("vision_config", {}).get(name, other)
    return said[0] if isinstance(said, list) else said


def _square(size: int) -> dict[str, int]:
    return {"height": size, "width": size}


def _llava(config: Config) -> Made:
    from transformers import CLIPImageProcessorPil

    size, strategy = _side(config, "image_size", 336), config.get("vision_feature_select_strategy", "default")
    told = {"patch_size": _side(config, "patch_size", 14), "vision_feature_select_strategy": strategy}
    return (
        CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=_square(size)),
        {**told, "num_additional_image_tokens": 1},
        {"image": "<image>"},
    )


def _llava_next(config: Config) -> Made:
    from transformers import LlavaNextImageProcessorPil

    _, told, named = _llava(config)
    size = _side(config, "image_size", 336)
    points = config.get("image_grid_pinpoints") or [[size, 2 * size], [2 * size, size]]
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": size}, crop_size=_square(size), image_grid_pinpoints=points
    )
    return images, told, named


def _qwen(config: Config) -> Made:
    from transformers import Qwen2VLImageProcessorPil

    merge = _side(config, "spatial_merge_size", 2)
    named = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>", "image": "<|image_pad|>"}
    patch = _side(config, "patch_size", 14)
    images = Qwen2VLImageProcessorPil(patch_size=patch, merge_size=merge, min_pixels=4 * (patch * merge) ** 2)
    return images, {}, {**named, "video": "<|video_pad|>"}


def _gemma3(config: Config) -> Made:
    from transformers import Gemma3ImageProcessorPil

    images = Gemma3ImageProcessorPil(size=_square(_side(config, "image_size", 896)))
    named = {"image": "<image_soft_token>", "boi": "<start_of_image>", "eoi": "<end_of_image>"}
    return images, {"image_seq_length": config.get("mm_tokens_per_image", 256)}, named


def _internvl(config: Config) -> Made:
    from transformers import GotOcr2ImageProcessorPil

    images = GotOcr2ImageProcessorPil(size=_square(_side(config, "image_size", 448)), crop_to_patches=False)
    named = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    return images, {"image_seq_length": config.get("image_seq_length", 256)}, named


def _mistral3(config: Config) -> Made:
    from transformers import PixtralImageProcessorPil

    patch, merge = _side(config, "patch_size", 14), config.get("spatial_merge_size", 2)
    size = _side(config, "image_size", 1540)
    images = PixtralImageProcessorPil(size={"longest_edge": size}, patch_size=_square(patch))
    named = {"image": "[IMG]", "image_break": "[IMG_BREAK]", "image_end": "[IMG_END]"}
    return images, {"patch_size": patch, "spatial_merge_size": merge}, named


def _idefics3(config: Config) -> Made:
    import transformers

    size, patch = _side(config, "image_size", 364), _side(config, "patch_size", 14)
    family = "SmolVLM" if config["model_type"] == "smolvlm" else "Idefics3"
    images = getattr(transformers, f"{family}ImageProcessorPil")(
        size={"longest_edge": size}, max_image_size={"longest_edge": size}, do_image_splitting=False
    )
    named = {"image": "<image>", "fake_image": "<fake_token_around_image>", "global_image": "<global-img>"}
    length = (size // patch) ** 2 // config.get("scale_factor", 2) ** 2
    return images, {"image_seq_len": length}, {**named, "end_of_utterance": "<end_of_utterance>", "video": "<video>"}


_FAMILIES = {
    "llava": _llava,
    "llava_next": _llava_next,
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), _qwen),
    "gemma3": _gemma3,
    "internvl": _internvl,
    "mistral3": _mistral3,
    **dict.fromkeys(("idefics3", "smolvlm"), _idefics3),
}
