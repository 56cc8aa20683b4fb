"""Rotary positions of tokens and images in time, height and width, by the model's own rule and without its weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

RULE = "get_rope_index"


def rule_of(model_class: Any, config: Any) -> Any:
    """Something that has the rule of the class and nothing else; None for a class whose positions are plain numbers."""
    if not hasattr(model_class, RULE):
        return None
    owner = model_class.__new__(model_class)
    owner.__dict__["config"] = config
    return owner


def positions_of(owner: Any, token_ids: Any, is_image: Any, geometry: Mapping[str, Any]) -> Any:
    """[3, tokens] for one row of token ids; tokens after the last of them go on from the largest, one by one."""
    asked = {"input_ids": token_ids[None], "mm_token_type_ids": is_image[None].int(), **geometry}
    taken = inspect.signature(getattr(type(owner), RULE)).parameters
    positions, _ = getattr(owner, RULE)(**{name: value for name, value in asked.items() if name in taken})
    return positions[:, 0]
