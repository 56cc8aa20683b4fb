"""A model of images and text -> which layers of its two parts are traced."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from qeffbuild.export import skeleton
from qeffbuild.export.adapted import adapted
from qeffbuild.export.interfaces import AttentionChoice, interfaces, use
from qeffbuild.export.layers import Layers, NotAlike, plan, stack_of
from qeffbuild.export.reasons import explain
from qeffbuild.export.rehearsal import Rehearsal, rehearse
from qeffbuild.export.vision import Picture, Vision, stacked_layers

log = logging.getLogger(__name__)


def text_layers(model: Any) -> Layers:
    """What enters the first layers is not the result of a layer where features are added to it."""
    return plan(model, _path_of(model, model.get_decoder()), first=1 + stacked_layers(model))


def vision_layers(model: Any, seen: Mapping[str, Any], attention: str) -> Layers:
    """`seen` is what the processor makes of an image: it decides what each layer is called with."""
    within = _tower(model)
    _, stack = stack_of(model, within)
    rehearsed = _rehearsed(model, stack, Vision(model, Picture.of(seen, model), attention=attention))
    return replace(plan(model, within, rehearsed=rehearsed), has_states=False)


def all_layers(model: Any, seen: Mapping[str, Any], attention: str) -> tuple[Layers, ...]:
    """Of both parts, where both are in one graph; or of the text part alone, where the other is traced whole."""
    text = text_layers(model)
    try:
        return vision_layers(model, seen, attention), text
    except NotAlike as reason:
        log.info("all vision layers are traced: %s", reason)
        return (text,)


def number_of_vision_layers(model: Any) -> int:
    try:
        return len(stack_of(model, _tower(model))[1])
    except NotAlike:
        return 0


def _tower(model: Any) -> str:
    part = model.get_encoder(modality="image")
    if part is None or part is model or part is model.base_model:
        raise NotAlike("the model has no vision part of its own")
    return _path_of(model, part)


def _rehearsed(model: Any, stack: nn.ModuleList, module: Vision) -> Rehearsal:
    mode = skeleton.fake_mode()
    skeleton.make_fake(model, mode)
    use(model, "eager")

    def run() -> tuple[torch.Tensor, ...]:
        with mode:
            entering = torch.ones(module.picture.pixels.shape, requires_grad=True)
            pixels = entering * 1  # some models write into what they are given
        with interfaces(AttentionChoice()), adapted(model):
            return module(pixels)

    try:
        return rehearse(stack, run)
    except Exception as reason:
        log.debug("a rehearsal failed", exc_info=True)
        raise NotAlike(f"what its layers are called with is not known: {explain(reason)}") from reason


def _path_of(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)
