"""The story of one export: choose a recipe, trace, copy layers, refer to weights, write."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from qeffbuild.errors import QeffBuildError
from qeffbuild.export import layers, selfcheck, shrink, skeleton, weights
from qeffbuild.export.adapted import adapted
from qeffbuild.export.copies import expand, order
from qeffbuild.export.decoder import INPUTS, Decoder
from qeffbuild.export.interfaces import AttentionChoice, interfaces, use
from qeffbuild.export.reasons import cannot_export, explain
from qeffbuild.export.recipes import RECIPES, Recipe
from qeffbuild.export.running import Progress, settled, silent
from qeffbuild.export.small import first_that_runs, limited
from qeffbuild.export.states import CacheForm, NoStates, StateSpec, dtype_name, probe, text_kept
from qeffbuild.export.tidy import tidy
from qeffbuild.export.trace import trace
from qeffbuild.export.weightless import Weightless, copied_or_whole
from qeffbuild.export.write import write_all
from qeffbuild.signature import IoSignature, Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the graph was made; export.json. `all_layers_because` is null where layers were copied.

    `longest_context` is null but for a model that goes another way when a text is longer, which the graph has not.
    """

    model_type: str
    model_class: str
    recipe: str
    self_check_error: float
    fused_attention: tuple[str, ...]
    layers: int
    layers_traced: int
    all_layers_because: str | None
    decomposed_because: str | None
    longest_context: int | None
    rejected_recipes: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Small:
    """The small model of the self-check, what its cache is made of, and what it should say."""

    model: Any
    form: CacheForm | NoStates
    expected: list[torch.Tensor]

    def form_for(self, recipe: Recipe) -> CacheForm:
        if recipe.recompute:
            return text_kept()
        if isinstance(self.form, NoStates):
            raise self.form
        return self.form


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    model: ir.Model
    states: tuple[StateSpec, ...]
    model_class: str
    layers: int
    layers_traced: int
    all_layers_because: str | None
    decomposed_because: str | None
    longest_context: int | None


@settled()
def export(
    facts: Mapping[str, Any],
    out: Path,
    *,
    dtype: str = "float32",
    code: Path | None = None,
    progress: Progress = silent,
) -> Report:
    """Write graph.onnx, io.json and export.json into `out`. `facts` is facts.json; no weight is read.

    The graph refers to the checkpoint's files by name, so whoever loads it says where they are. It computes in
    `dtype`, as PyTorch does: what a modeling file widens to float32 stays wide, and logits always are. The small model
    is held against PyTorch in float32, where a disagreement is no rounding. `code` is the folder of the model's own
    Python, where it has some that is trusted.
    """
    config = skeleton.configuration(facts["config"], code)
    progress(0.05, "building a small model of the same kind")
    small = _small(facts["config"], config, code)
    rejected: list[tuple[str, str]] = []
    for recipe in RECIPES:
        try:
            choice, error = selfcheck.check(small.model, small.form_for(recipe), recipe, small.expected)
            progress(0.3, f"tracing: {recipe.name}")
            graph = _graph(config, weights.stored_tensors(facts), recipe, choice, getattr(torch, dtype))
        except QeffBuildError:
            raise
        except Exception as reason:
            log.debug("recipe %s failed", recipe.name, exc_info=True)
            rejected.append((recipe.name, explain(reason)))
            gc.collect()
            continue
        progress(0.9, "writing")
        if recipe.recompute:
            log.warning("this model's own cache is of no use (%s): each step computes the whole text", rejected[0][1])
        if graph.longest_context is not None:
            log.warning("the graph holds for texts of up to %s tokens: the model does otherwise", graph.longest_context)
        report = _report(facts["config"]["model_type"], recipe, choice, error, graph, rejected)
        write_all([(graph.model, _signature(graph))], report.as_json(), out)
        return report
    again = partial(_graph, config, weights.stored_tensors(facts), RECIPES[-1], AttentionChoice(), torch.float32)
    ahead = selfcheck.sees_ahead(small.model, small.expected)
    raise cannot_export(facts["config"]["model_type"], rejected, again, sees_ahead=ahead)


def _small(said: Mapping[str, Any], config: Any, code: Path | None) -> _Small:
    def prove(model: Any) -> _Small:
        return _Small(model=model, expected=selfcheck.reference(model), form=_form(model))

    return first_that_runs(said["model_type"], limited(shrink.candidates(said, config)), prove, code=code)


def _form(model: Any) -> CacheForm | NoStates:
    try:
        with adapted(model):
            return probe(model)
    except NoStates as reason:
        return reason
    except Exception as reason:  # the model runs, but not with a cache of its own
        log.debug("no cache", exc_info=True)
        return NoStates(explain(reason))


def _graph(
    config: Any, stored: Mapping[str, weights.Stored], recipe: Recipe, choice: AttentionChoice, dtype: torch.dtype
) -> _Graph:
    """The whole graph, by copies of one layer of each kind where that is sound, else by a trace of all layers."""

    def attempt(copying: bool) -> _Graph:
        make, choose = partial(skeleton.causal, dtype=dtype), _stack if copying else None
        return _traced(Weightless(config, stored, make, choose), recipe, choice)

    made, reason = copied_or_whole(attempt)
    return replace(made, all_layers_because=reason)


def _traced(weightless: Weightless, recipe: Recipe, choice: AttentionChoice) -> _Graph:
    made, longest, form, reason = _trace(weightless.model, weightless.mode, recipe, choice)
    states = form.states
    for alike in weightless.stacks:
        own = {name: spec.layer for spec in states if form.layers for name in (spec.name, spec.output)}
        expand(made.graph, alike, own, weightless.buffers)
        if own:  # a text that is kept is no layer's
            states = alike.spread(states, lambda spec: spec.layer, StateSpec.on_layer)
    count, traced = weightless.numbers(_layers(weightless.model.config, form))
    order(made.graph, [*INPUTS, *(spec.name for spec in states)], ["logits", *(spec.output for spec in states)])
    weightless.finish(made)
    return _Graph(
        model=made,
        states=states,
        model_class=type(weightless.model).__name__,
        layers=count,
        layers_traced=traced,
        all_layers_because=None,
        decomposed_because=reason,
        longest_context=longest,
    )


def _stack(model: Any) -> tuple[layers.Layers]:
    return (layers.plan(model),)


def _layers(config: Any, form: CacheForm) -> int:
    return len(form.layers) or config.get_text_config(decoder=True).num_hidden_layers


def _trace(
    model: Any, mode: Any, recipe: Recipe, choice: AttentionChoice
) -> tuple[ir.Model, int | None, CacheForm, str | None]:
    """What `trace` gives, tidied; by decompositions only where it is not to be had without them, and then why."""
    use(model, "eager")
    with mode, interfaces(choice), adapted(model):
        form = text_kept() if recipe.recompute else probe(model)
    decoder = Decoder(model, form, recipe)
    reason = None
    try:
        with mode:
            made, longest = trace(decoder, choice, decompose=False)
    except torch.onnx.OnnxExporterError as error:
        reason = explain(error)
        log.debug("decomposing", exc_info=True)
        with mode:
            made, longest = trace(decoder, choice, decompose=True)
    tidy(made.graph, dtype_name(model.dtype))
    return made, longest, form, reason


def _report(
    model_type: str,
    recipe: Recipe,
    choice: AttentionChoice,
    error: float,
    graph: _Graph,
    rejected: list[tuple[str, str]],
) -> Report:
    fused = recipe.attention != "eager"
    return Report(
        model_type=model_type,
        model_class=graph.model_class,
        recipe=recipe.name,
        # One digit says all; the rest differs from machine to machine.
        self_check_error=float(f"{error:.0e}"),
        fused_attention=tuple(sorted(cls.__name__ for cls, same in choice.fused.items() if same and fused)),
        layers=graph.layers,
        layers_traced=graph.layers_traced,
        all_layers_because=graph.all_layers_because,
        decomposed_because=graph.decomposed_because,
        longest_context=graph.longest_context,
        rejected_recipes=tuple(rejected),
    )


def _signature(graph: _Graph) -> IoSignature:
    logits = graph.model.graph.outputs[0].shape
    assert logits is not None
    vocabulary = logits[2]
    assert isinstance(vocabulary, int)
    rows = ("batch_size", "seq_len")
    return IoSignature(
        graph="decoder",
        inputs=(
            Tensor(name="input_ids", dtype="int64", axes=rows),
            Tensor(name="position_ids", dtype="int64", axes=rows),
            Tensor(name="logits_index", dtype="int64", axes=("batch_size", "num_logits")),
        ),
        outputs=(Tensor(name="logits", dtype="float32", axes=("batch_size", "num_logits", vocabulary)),),
        states=tuple(spec.signed() for spec in graph.states),
    )
