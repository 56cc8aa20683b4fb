"""The story of an export of a model of images and text: a vision graph and a decoder, or one graph of both.

As for every model: a small one of the kind is held against PyTorch first, then the real one is traced without weights,
one layer of each kind, and its weights stay where they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForImageTextToText

from qeffbuild.errors import ModelError, QeffBuildError
from qeffbuild.export import layers, skeleton, weights
from qeffbuild.export.adapted import adapted
from qeffbuild.export.finish import finish
from qeffbuild.export.image_check import Expected, check_language, check_vision, reference
from qeffbuild.export.interfaces import AttentionChoice, interfaces, use
from qeffbuild.export.language import OUTPUTS, Language
from qeffbuild.export.modules import Traceable, signature_of, to_graph
from qeffbuild.export.neutral import Progress, _silent
from qeffbuild.export.reasons import explain
from qeffbuild.export.recipes import RECIPES, Recipe
from qeffbuild.export.selfcheck import TOLERANCE, Disagreement
from qeffbuild.export.shrink import MOST_PARAMETERS
from qeffbuild.export.shrink_image import smaller
from qeffbuild.export.states import CacheForm, StateSpec, probe
from qeffbuild.export.vision import SEGMENTS, Picture, Vision, stacked_layers
from qeffbuild.export.write import write
from qeffbuild.graphs import place
from qeffbuild.models.image_positions import RULE
from qeffbuild.models.images import blank, described, processed, size_of
from qeffbuild.signature import IoSignature, Tensor

log = logging.getLogger(__name__)

DECODER, VISION = "decoder", "vision"
_VISION_ATTENTIONS = (SEGMENTS, "eager")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What whoever feeds the graphs has to know: images of which size, and what becomes of one.

    `processed` describes what the processor gives for one image; `whole_images` says that an image may not be
    split over chunks, because its pieces see one another.
    """

    img_size: tuple[int, int]
    max_num_images: int
    image_token_id: int
    vision_size: int
    whole_images: bool
    has_grid: bool
    processed: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the graphs were made; export.json. `all_layers_because` is null where layers were copied."""

    model_type: str
    model_class: str
    task: str
    recipe: str
    vision_attention: str
    self_check_error: float
    fused_attention: tuple[str, ...]
    layers: int
    layers_traced: int
    all_layers_because: str | None
    rejected_recipes: tuple[tuple[str, str], ...]
    graphs: tuple[str, ...]
    image: ImageFacts

    def as_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Small:
    """The small model of the self-check, what its cache is made of, and what it should say."""

    model: Any
    form: CacheForm
    expected: Expected
    vision_attention: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    recipe: Recipe
    choice: AttentionChoice
    error: float
    whole_images: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traced:
    model: ir.Model
    signature: IoSignature
    model_class: str
    layers: int
    layers_traced: int
    all_layers_because: str | None = None


def export(
    facts: Mapping[str, Any],
    processor: Any,
    out: Path,
    *,
    img_size: Sequence[int] = (),
    max_num_images: int = 1,
    kv_offload: bool = True,
    progress: Progress = _silent,
) -> Report:
    """Write the graphs, their signatures and export.json into `out`. `facts` is facts.json; no weight is read.

    With `kv_offload` the vision graph is one and the decoder another; without, one graph takes pixels and tokens.
    """
    torch.set_num_threads(1)
    said = facts["config"]
    config = skeleton.configuration(said)
    size = size_of(config, img_size)
    one = processed(processor, blank(size))
    seen = one if kv_offload else processed(processor, blank(size, max_num_images))
    progress(0.05, "building a small model of the same kind")
    small = _small(config, one)
    rejected: list[tuple[str, str]] = []
    for recipe in (recipe for recipe in RECIPES if not recipe.recompute):
        try:
            chosen = _chosen(small, recipe)
            progress(0.3, f"tracing: {recipe.name}")
            traced = _graphs(config, facts, seen, small, chosen, kv_offload=kv_offload)
        except QeffBuildError:
            raise
        except Exception as reason:
            log.debug("recipe %s failed", recipe.name, exc_info=True)
            rejected.append((recipe.name, explain(reason)))
            continue
        progress(0.9, "writing")
        image = ImageFacts(
            img_size=size,
            max_num_images=max_num_images,
            image_token_id=config.image_token_id,
            vision_size=small.expected.vision_size,
            whole_images=chosen.whole_images,
            has_grid=hasattr(small.model.base_model, RULE),
            processed=described(one),
        )
        report = _report(said["model_type"], small, chosen, traced, rejected, image)
        _write(traced, report, out)
        return report
    raise _unsupported(said, rejected[0][1])


def _make(config: Any) -> Any:
    return AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="eager")


def _small(config: Any, one: Mapping[str, Any]) -> _Small:
    """The first smaller model that transformers itself can run, and the attention that its vision part agrees with."""
    reasons: list[BaseException] = []
    for said in smaller(config):
        try:
            shrunken = skeleton.configuration(said)
            parameters = skeleton.skeleton(shrunken, _make).parameters()
            if sum(parameter.numel() for parameter in parameters) > MOST_PARAMETERS:
                raise ValueError("it cannot be made small enough")
            model = skeleton.small_model(shrunken, _make)
            picture = Picture.of(one, model)
            expected = reference(model, picture)
            attention = _vision_attention(model, picture, expected)
            return _Small(model=model, form=probe(model), expected=expected, vision_attention=attention)
        except QeffBuildError:
            raise
        except Exception as reason:
            log.debug("a smaller configuration failed", exc_info=True)
            reasons.append(reason)
    why = f"no small model of this kind can be built to check against: {explain(reasons[0])}"
    raise _unsupported(config.to_dict(), why) from reasons[0]


def _vision_attention(model: Any, picture: Picture, expected: Expected) -> str:
    for attention in _VISION_ATTENTIONS:
        try:
            if check_vision(model, picture, attention, expected) < TOLERANCE:
                return attention
        except Exception:
            log.debug("vision attention %s failed", attention, exc_info=True)
    raise Disagreement("the embeddings of an image differ from PyTorch's")


def _chosen(small: _Small, recipe: Recipe) -> _Chosen:
    """Raise Disagreement unless the recipe is right; images that see themselves as a whole may not be split."""
    outputs = Vision(small.model, _nothing(), attention=small.vision_attention).outputs
    for splitting in (True, False):
        try:
            choice, error = check_language(
                small.model, small.form, recipe, small.expected, outputs, splitting=splitting
            )
        except Disagreement:
            if not splitting:
                raise
            continue
        return _Chosen(recipe=recipe, choice=choice, error=error, whole_images=not splitting)
    raise AssertionError("one of the two answers")


def _nothing() -> Picture:
    return Picture(pixels=torch.zeros(0), geometry={})


def _graphs(
    config: Any,
    facts: Mapping[str, Any],
    seen: Mapping[str, Any],
    small: _Small,
    chosen: _Chosen,
    *,
    kv_offload: bool,
) -> tuple[_Traced, ...]:
    """The main graph first."""
    stored = weights.stored_tensors(facts)
    try:
        main = _main(config, stored, seen, small, chosen, kv_offload=kv_offload, copying=True)
    except layers.NotAlike as reason:
        log.info("all layers are traced: %s", reason)
        made = _main(config, stored, seen, small, chosen, kv_offload=kv_offload, copying=False)
        main = _because(made, str(reason))
    return (main, _vision(config, stored, seen, small)) if kv_offload else (main,)


def _because(traced: _Traced, reason: str) -> _Traced:
    return replace(traced, layers_traced=traced.layers, all_layers_because=reason)


class _Skeleton:
    """The real model without weights, and what its parameters are made of."""

    def __init__(self, config: Any, stored: Mapping[str, weights.Stored]) -> None:
        self.model: Any = skeleton.skeleton(config, _make)
        self.sources = weights.find_sources(self.model, stored)
        weights.untie(self.model, self.sources)
        self.names, self.buffers = weights.aliases(self.model), dict(self.model.named_buffers())
        self.shapes = weights.shapes_of(self.model)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.mode.cache_enabled = False

    def make_fake(self) -> None:
        skeleton.make_fake(self.model, self.mode)

    def finish(self, made: ir.Model, name: str) -> None:
        outputs = set(made.graph.outputs)
        for initializer, value in list(made.graph.initializers.items()):
            if not value.uses() and value not in outputs:  # the other graph's part of the model
                del made.graph.initializers[initializer]
        weights.refer(made.graph, self.sources, self.names, self.shapes)
        finish(made)
        made.graph.name = name


def _vision(config: Any, stored: Mapping[str, weights.Stored], seen: Mapping[str, Any], small: _Small) -> _Traced:
    skeletal = _Skeleton(config, stored)
    skeletal.make_fake()
    module = Vision(skeletal.model, Picture.of(seen, skeletal.model), attention=small.vision_attention)
    asked = Traceable(graph=VISION, module=module, inputs=(module.input,), outputs=module.outputs)
    made = to_graph(asked, skeletal.model, "eager", AttentionChoice(), skeletal.mode)
    skeletal.finish(made, VISION)
    signature = signature_of(made.graph, asked)
    return _Traced(
        model=made, signature=signature, model_class=type(skeletal.model).__name__, layers=0, layers_traced=0
    )


def _main(
    config: Any,
    stored: Mapping[str, weights.Stored],
    seen: Mapping[str, Any],
    small: _Small,
    chosen: _Chosen,
    *,
    kv_offload: bool,
    copying: bool,
) -> _Traced:
    """The decoder, or the decoder with the vision part before it."""
    skeletal = _Skeleton(config, stored)
    model = skeletal.model
    within, first = _path_of(model, model.get_decoder()), 1 + stacked_layers(model)
    alike = layers.plan(model, within, first) if copying else None
    if alike is not None:
        layers.cut(model, alike)
    skeletal.make_fake()
    use(model, "eager")
    with skeletal.mode, interfaces(chosen.choice), adapted(model):
        form = probe(model)
    vision = Vision(model, Picture.of(seen, model), attention=small.vision_attention)
    language = Language(model, form, chosen.recipe, vision=vision.outputs, is_listed=small.expected.is_listed)
    held = language.held() if kv_offload else (vision.input,)
    asked = Traceable(
        graph=DECODER,
        module=language if kv_offload else Together(vision, language),
        inputs=language.inputs(),
        outputs=OUTPUTS,
        states=tuple(spec.signed() for spec in form.states),
        held=held,
        sizes={"vision_size": 7},
    )
    made = to_graph(asked, model, chosen.recipe.attention, chosen.choice, skeletal.mode)
    specs: Sequence[StateSpec] = form.states
    if alike is not None:
        specs = layers.expand(made.graph, alike, form.states, skeletal.buffers)
    _order(made.graph, language.inputs(), specs, held)
    skeletal.finish(made, DECODER)
    outputs = signature_of(made.graph, asked).outputs
    signature = IoSignature(
        graph=DECODER,
        inputs=language.inputs(),
        outputs=outputs,
        states=tuple(spec.signed() for spec in specs),
        held=held,
    )
    count = alike.count if alike else len(form.layers)
    return _Traced(
        model=made,
        signature=signature,
        model_class=type(model).__name__,
        layers=count,
        layers_traced=alike.traced if alike else count,
    )


def _path_of(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)


def _order(graph: ir.Graph, inputs: Sequence[Tensor], specs: Sequence[StateSpec], held: Sequence[Tensor]) -> None:
    """Inputs, states, what is held: as the signature says."""
    values = {value.name: value for value in graph.inputs}
    names = [*(tensor.name for tensor in inputs), *(spec.name for spec in specs), *(tensor.name for tensor in held)]
    graph.inputs[:] = [values[name] for name in names]


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


def _report(
    model_type: str,
    small: _Small,
    chosen: _Chosen,
    traced: Sequence[_Traced],
    rejected: Sequence[tuple[str, str]],
    image: ImageFacts,
) -> Report:
    fused = chosen.recipe.attention != "eager"
    names = [cls.__name__ for cls, same in chosen.choice.fused.items() if same and fused]
    return Report(
        model_type=model_type,
        model_class=traced[0].model_class,
        task="image-text",
        recipe=chosen.recipe.name,
        vision_attention=small.vision_attention,
        # One digit says all; the rest differs from machine to machine.
        self_check_error=float(f"{chosen.error:.0e}"),
        fused_attention=tuple(sorted(names)),
        layers=traced[0].layers,
        layers_traced=traced[0].layers_traced,
        all_layers_because=traced[0].all_layers_because,
        rejected_recipes=tuple(rejected),
        graphs=tuple(graph.signature.graph for graph in traced),
        image=image,
    )


def _write(traced: Sequence[_Traced], report: Report, out: Path) -> None:
    for number, graph in enumerate(traced):
        write(graph.model, place(out, graph.signature, is_main=number == 0).graph)
    (out / "export.json").write_text(json.dumps(report.as_json(), indent=1, sort_keys=True) + "\n")


def _unsupported(said: Mapping[str, Any], why: str) -> ModelError:
    return ModelError(
        "model.unsupported",
        f"{said['model_type']}: {why}",
        hint="no way of tracing this model reproduces PyTorch's results; the log of this step lists them all",
    )
