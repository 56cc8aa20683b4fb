"""A model of images and text, made small -> the attention of its vision part and the recipe that agree with PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from qeffbuild.export.image_check import Expected, check_language, check_vision, reference
from qeffbuild.export.interfaces import AttentionChoice
from qeffbuild.export.recipes import Recipe
from qeffbuild.export.selfcheck import TOLERANCE, Disagreement
from qeffbuild.export.shrink_image import smaller
from qeffbuild.export.small import first_that_runs, limited
from qeffbuild.export.states import CacheForm, probe
from qeffbuild.export.vision import SEGMENTS, Picture, Vision

log = logging.getLogger(__name__)

_VISION_ATTENTIONS = (SEGMENTS, "eager")


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """The small model of the self-check, what its cache is made of, and what it should say."""

    model: Any
    form: CacheForm
    expected: Expected
    vision_attention: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """How the real model is traced; `whole_images` says that an image may not be split over chunks."""

    recipe: Recipe
    choice: AttentionChoice
    error: float
    whole_images: bool
    vision_attention: str
    is_listed: bool


def make(config: Any, dtype: str = "float32") -> Any:
    return AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype), attn_implementation="eager")


def small_one(config: Any, one: Mapping[str, Any], *, whole_prompts: bool) -> Small:
    """The first smaller model that transformers itself can run, and the attention that its vision part agrees with.

    `one` is what the processor makes of one image.
    """

    def prove(model: Any) -> Small:
        picture = Picture.of(one, model)
        expected = reference(model, picture, whole_prompts=whole_prompts)
        attention = _vision_attention(model, picture, expected)
        return Small(model=model, form=probe(model), expected=expected, vision_attention=attention)

    return first_that_runs(config.model_type, limited(smaller(config)), prove, make)


def _vision_attention(model: Any, picture: Picture, expected: Expected) -> str:
    for attention in _VISION_ATTENTIONS:
        try:
            if check_vision(model, picture, attention, expected) < TOLERANCE:
                return attention
        except Exception:
            log.debug("vision attention %s failed", attention, exc_info=True)
    raise Disagreement("the embeddings of an image differ from PyTorch's")


def chosen(small: Small, recipe: Recipe) -> Chosen:
    """Raise Disagreement unless the recipe is right; images that see themselves as a whole may not be split."""
    outputs = Vision(small.model, _nothing(), attention=small.vision_attention).outputs
    for splitting in (False,) if small.expected.whole_prompts else (True, False):
        try:
            choice, error = check_language(
                small.model, small.form, recipe, small.expected, outputs, splitting=splitting
            )
        except Disagreement:
            if not splitting:
                raise
            continue
        return Chosen(
            recipe=recipe,
            choice=choice,
            error=error,
            whole_images=not splitting,
            vision_attention=small.vision_attention,
            is_listed=small.expected.is_listed,
        )
    raise AssertionError("one of the two answers")


def _nothing() -> Picture:
    return Picture(pixels=torch.zeros(0), geometry={})
