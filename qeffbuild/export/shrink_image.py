"""The configuration of a model of images and text -> smaller ones of the same kind, the smallest first.

Sizes of patches, windows and images stay: what is computed from an image's size must be what it will be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from qeffbuild.export import shrink

_TOKEN = re.compile(r"(^|_)token_(id|index)$")
_WIDTHS, _HEADS = ("embed_dim", "hidden_size"), ("num_heads", "num_attention_heads")
_LAYERS = ("depth", "num_hidden_layers")
FEW = 4  # layers of the vision part, so that the last but one is not the first


def smaller(full: Any) -> Iterator[dict[str, Any]]:
    """Configurations to try; some families tie widths together that others leave free."""
    for is_narrow in (True, False):
        for follows in (True, False):
            yield _smaller(full, is_narrow=is_narrow, follows=follows)


def _smaller(full: Any, *, is_narrow: bool, follows: bool) -> dict[str, Any]:
    said = full.to_dict()
    text = full.get_text_config()
    text_name = next(name for name in full.sub_configs if getattr(full, name, None) is text)
    said[text_name] = shrink.small(said[text_name], text)
    _few_tokens(said, said[text_name])
    for name in full.sub_configs:
        if name != text_name and isinstance(said.get(name), dict):
            _small_vision(said[name], is_narrow=is_narrow)
            if follows:
                _follow(said[name], text.hidden_size, said[text_name])
    _few_feature_layers(said)
    said.pop("quantization_config", None)
    return said


def _small_vision(vision: dict[str, Any], *, is_narrow: bool) -> None:
    lists = {key: value for key, value in vision.items() if isinstance(value, list) and key.endswith("indexes")}
    for name in _LAYERS:
        if isinstance(vision.get(name), int):
            vision[name] = min(vision[name], max([FEW, *(len(value) + 1 for value in lists.values())]))
            for key, value in lists.items():
                vision[key] = list(range(min(len(value), vision[name] - 1)))
    if isinstance(vision.get("intermediate_size"), int):
        vision["intermediate_size"] = min(vision["intermediate_size"], shrink.WIDTH)
    width = next((name for name in _WIDTHS if isinstance(vision.get(name), int)), None)
    heads = next((name for name in _HEADS if isinstance(vision.get(name), int)), None)
    if is_narrow and width is not None and heads is not None and vision[heads] > shrink.KV_HEADS:
        vision[width] = vision[width] // vision[heads] * shrink.KV_HEADS
        vision[heads] = shrink.KV_HEADS


def _follow(vision: dict[str, Any], before: int, text: dict[str, Any]) -> None:
    """What was as wide as the text stays as wide as it."""
    for key, value in vision.items():
        if value == before and not isinstance(value, bool) and ("hidden" in key or "dim" in key):
            vision[key] = text["hidden_size"]


def _few_feature_layers(said: dict[str, Any]) -> None:
    """Which of the vision part's layers are read, counted from its end."""
    chosen = said.get("vision_feature_layer")
    if isinstance(chosen, int):
        said["vision_feature_layer"] = max(-FEW, min(chosen, FEW))
    elif isinstance(chosen, list):
        said["vision_feature_layer"] = [-1 - place % FEW for place in range(len(chosen))]


def _few_tokens(said: dict[str, Any], text: dict[str, Any]) -> None:
    """Special tokens among the first words of the small vocabulary, different ones as before."""
    places: dict[int, int] = {}
    for part in (said, text):
        for key, value in part.items():
            if _TOKEN.search(key) and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                part[key] = places.setdefault(value, len(places) + 1)
