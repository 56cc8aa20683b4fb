"""A model of images and text, and the way that was chosen -> its graphs: decoder and vision part, or both in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from qeffbuild.export.adapted import adapted
from qeffbuild.export.image_choice import Chosen, make
from qeffbuild.export.image_layers import all_layers, number_of_vision_layers, text_layers, vision_layers
from qeffbuild.export.interfaces import AttentionChoice, interfaces, use
from qeffbuild.export.language import OUTPUTS, Language
from qeffbuild.export.layers import Layers
from qeffbuild.export.modules import Traceable, signature_of, to_graph
from qeffbuild.export.narrow import in_dtype
from qeffbuild.export.states import CacheForm, probe
from qeffbuild.export.vision import Picture, Vision
from qeffbuild.export.weightless import Weightless, copied_or_whole
from qeffbuild.export.weights import Stored
from qeffbuild.signature import IoSignature

DECODER, VISION = "decoder", "vision"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    model: ir.Model
    signature: IoSignature
    model_class: str
    layers: int
    layers_traced: int
    all_layers_because: str | None = None


def graphs(
    config: Any,
    stored: Mapping[str, Stored],
    seen: Mapping[str, Any],
    chosen: Chosen,
    *,
    dtype: str = "float32",
    kv_offload: bool,
) -> tuple[Traced, ...]:
    """The main graph first. `seen` is what the processor makes of the images that a graph takes at once."""

    made_in = partial(make, dtype=dtype)

    def of_text(model: Any) -> tuple[Layers, ...]:
        return (text_layers(model),) if kv_offload else all_layers(model, seen, chosen.vision_attention)

    def of_vision(model: Any) -> tuple[Layers, ...]:
        return (vision_layers(model, seen, chosen.vision_attention),)

    def main(copying: bool) -> Traced:
        return _main(Weightless(config, stored, made_in, of_text if copying else None), seen, chosen, kv_offload)

    def vision(copying: bool) -> Traced:
        return _vision(Weightless(config, stored, made_in, of_vision if copying else None), seen, chosen)

    attempts = (main, vision) if kv_offload else (main,)
    made = [copied_or_whole(attempt) for attempt in attempts]
    return tuple(replace(traced, all_layers_because=reason) for traced, reason in made)


def _vision(weightless: Weightless, seen: Mapping[str, Any], chosen: Chosen) -> Traced:
    model = weightless.model
    module = Vision(model, Picture.of(seen, model), attention=chosen.vision_attention)
    asked = Traceable(graph=VISION, module=module, inputs=(module.input,), outputs=module.outputs)
    asked = in_dtype(asked, model, module.outputs)
    made = to_graph(asked, model, "eager", AttentionChoice(), weightless.mode)
    complete = weightless.copied(made, asked)
    weightless.finish(made, VISION)
    count, traced = weightless.numbers(number_of_vision_layers(model))
    return Traced(
        model=made,
        signature=signature_of(made.graph, complete),
        model_class=type(model).__name__,
        layers=count,
        layers_traced=traced,
    )


def _main(weightless: Weightless, seen: Mapping[str, Any], chosen: Chosen, kv_offload: bool) -> Traced:
    """The decoder, or the decoder with the vision part before it."""
    model = weightless.model
    use(model, "eager")
    with weightless.mode, interfaces(chosen.choice), adapted(model):
        form = probe(model)
    vision = Vision(model, Picture.of(seen, model), attention=chosen.vision_attention)
    language = Language(model, form, chosen.recipe, vision=vision.outputs, is_listed=chosen.is_listed)
    asked = in_dtype(_asked(vision, language, form, kv_offload), model, vision.outputs)
    made = to_graph(asked, model, chosen.recipe.attention, chosen.choice, weightless.mode)
    complete = weightless.copied(made, asked)
    weightless.finish(made, DECODER)
    signature = signature_of(made.graph, complete)
    count, traced = weightless.numbers(len(form.layers))
    return Traced(model=made, signature=signature, model_class=type(model).__name__, layers=count, layers_traced=traced)


def _asked(vision: Vision, language: Language, form: CacheForm, kv_offload: bool) -> Traceable:
    return Traceable(
        graph=DECODER,
        module=language if kv_offload else Together(vision, language),
        inputs=language.inputs(),
        outputs=OUTPUTS,
        states=tuple(spec.signed() for spec in form.states),
        held=language.held() if kv_offload else (vision.input,),
        sizes={"vision_size": 7},
    )


class Together(nn.Module):
    """Vision and language as one module: every row of tokens reads the same images, embedded anew in each run."""

    def __init__(self, vision: Vision, language: Language) -> None:
        super().__init__()
        self.model = vision.model
        self.parts = (vision, language)  # a tuple, so that parameters have one name

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        vision, language = self.parts
        *said, pixels = tensors
        rows = said[0].shape[0]
        embedded = vision(pixels)
        spread = [made.expand(rows, *made.shape[1:]) for made in embedded]
        return language(*said, *spread)
