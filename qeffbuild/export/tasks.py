"""The story of an export of any task but causal-lm: a small model of the kind is held against PyTorch, then traced.

Its graphs read everything at once or, in an encoder-decoder, are two: weights by reference, as everywhere.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch._dynamo.exc import UserError

from qeffbuild.errors import QeffBuildError
from qeffbuild.export import encoder_check, layers, shrink, shrink_more, skeleton
from qeffbuild.export.carried import Reading, form_of
from qeffbuild.export.encoder import classifier, embedder, listener
from qeffbuild.export.modules import AnyAttention, Traceable, signature_of, to_graph
from qeffbuild.export.narrow import all_in_dtype
from qeffbuild.export.reasons import explain, unsupported
from qeffbuild.export.running import Progress, settled, silent
from qeffbuild.export.selfcheck import TOLERANCE, Disagreement
from qeffbuild.export.sizes import FixedAxis
from qeffbuild.export.small import Candidates, first_that_runs, limited
from qeffbuild.export.states import NoStates
from qeffbuild.export.weightless import Weightless, copied_or_whole
from qeffbuild.export.weights import Stored, stored_tensors
from qeffbuild.export.write import write_all
from qeffbuild.models.classes import model_from
from qeffbuild.models.tasks import GENERATING, TEXT
from qeffbuild.signature import IoSignature

Make = Callable[[Any], Any]

log = logging.getLogger(__name__)

# One op for attention where that gives the same, else the model's own code. Each at once; then with a cache, where no
# trace at once holds; and text by text, where padding would change results.
_ATTENTIONS = ("qeffbuild", "eager")
_WITH_CACHE = "with a cache"
_WITH_ROOM = "with room behind it"
_READINGS = ("at once", _WITH_CACHE, "alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the graphs were made; export.json."""

    model_type: str
    model_class: str
    task: str
    attention: str
    reading: str
    self_check_error: float
    fused_attention: tuple[str, ...]
    pooling: str | None
    normalize: bool
    graphs: tuple[str, ...]
    layers: int | None  # of the one stack; an encoder-decoder has two
    layers_traced: int | None
    all_layers_because: str | None
    rejected: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one task is traced.

    model, how it reads -> its graphs, the main one first; a small model, graphs -> what PyTorch says to some data; the
    same and graphs to be held against that -> the largest error; model -> the stacks of layers that may be copied;
    model -> how many layers it has, where that is known.
    """

    readings: tuple[str, ...]
    graphs: Callable[[Any, Reading], tuple[Traceable, ...]]
    reference: Callable[[Any, tuple[Traceable, ...]], list[torch.Tensor]]
    error: Callable[[Any, tuple[Traceable, ...], list[torch.Tensor], str, AnyAttention], float]
    stacks: Callable[[Any], tuple[layers.Layers, ...]]
    count: Callable[[Any], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How a trace is taken, and which attention was found to be one op."""

    attention: str
    reading: str
    choice: AnyAttention = field(default_factory=AnyAttention)

    def read(self, model: Any, mode: Any = None) -> Reading:
        form = form_of(model, mode) if self.reading == _WITH_CACHE else None
        return Reading(form=form, is_alone=self.reading == "alone", has_room=self.reading == _WITH_ROOM)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """The real model's graphs, with references to weights."""

    graphs: tuple[tuple[ir.Model, IoSignature], ...]
    layers: int | None = None
    layers_traced: int | None = None
    all_layers_because: str | None = None


@settled()
def export(
    facts: Mapping[str, Any],
    out: Path,
    *,
    dtype: str = "float32",
    pooling: str = "auto",
    normalize: bool | None = None,
    progress: Progress = silent,
) -> Report:
    """Write the graphs, their signatures and export.json into `out`. `facts` is facts.json; no weight is read.

    They compute in `dtype`, but take and give float32. The small model is held against PyTorch in float32.
    """
    task, said = facts["task"], facts["config"]
    how, is_normal = embedding_of(facts, pooling, normalize)
    kind = kind_of(task, how, is_normal)
    config = skeleton.configuration(said)
    progress(0.05, "building a small model of the same kind")
    tried, expected = _small_one(said, config, task, kind)
    rejected: list[tuple[str, str]] = []
    stopped, hopeless = None, set[str]()
    for reading, attention in itertools.product(kind.readings, _ATTENTIONS):
        if reading in hopeless:
            continue
        way = _Way(attention=attention, reading=reading)
        try:
            error = kind.error(tried, kind.graphs(tried, way.read(tried)), expected, way.attention, way.choice)
            if not error < TOLERANCE:
                raise Disagreement(f"results differ from PyTorch's by {error:.1e} of their spread")
            progress(0.3, f"tracing: {attention}")
            made = _graphs(config, _maker(task, dtype), stored_tensors(facts), kind, way)
        except QeffBuildError:
            raise
        except Exception as reason:
            log.debug("attention %s, %s, failed", attention, reading, exc_info=True)
            rejected.append((f"{attention}, {reading}", explain(reason)))
            if not isinstance(reason, Disagreement | NoStates) and reading != _WITH_CACHE:
                stopped = stopped or rejected[-1][1]
            if isinstance(reason, FixedAxis | UserError):  # no attention counts its way along a text
                hopeless.add(reading)
            continue
        progress(0.9, "writing")
        asked = {"task": task, "pooling": how if task == "embedding" else None, "normalize": is_normal}
        report = _report(tried, way, error, made, rejected, asked)
        write_all(made.graphs, report.as_json(), out)
        return report
    # What stopped a trace says more than that another was not to be trusted.
    raise unsupported(said["model_type"], stopped or rejected[0][1])


def _report(
    model: Any, way: _Way, error: float, made: _Made, rejected: list[tuple[str, str]], asked: Mapping[str, Any]
) -> Report:
    return Report(
        model_type=model.config.model_type,
        model_class=type(model).__name__,
        attention=way.attention,
        reading=way.reading,
        self_check_error=float(f"{error:.0e}"),  # one digit; the rest differs from machine to machine
        fused_attention=tuple(sorted(cls.__name__ for cls, same in way.choice.fused.items() if same)),
        graphs=tuple(signature.graph for _, signature in made.graphs),
        layers=made.layers,
        layers_traced=made.layers_traced,
        all_layers_because=made.all_layers_because,
        rejected=tuple(rejected),
        **asked,
    )


def _small_one(said: Mapping[str, Any], config: Any, task: str, kind: Kind) -> tuple[Any, list[torch.Tensor]]:
    """The small model, and what it says."""

    def prove(model: Any) -> tuple[Any, list[torch.Tensor]]:
        return model, kind.reference(model, kind.graphs(model, Reading()))

    return first_that_runs(said["model_type"], _smaller(said, config), prove, _maker(task))


def _smaller(said: Mapping[str, Any], config: Any) -> Candidates:
    """The last is taken whatever its size."""
    yield from limited(shrink.candidates(said, config))
    yield shrink_more.small(said, config), math.inf


def embedding_of(facts: Mapping[str, Any], pooling: str, normalize: bool | None) -> tuple[str, bool]:
    """How embeddings are made: as asked, else as the model's own files say, else the mean of its tokens."""
    said = facts.get("pooling") or {}
    how = said.get("mode", "mean") if pooling == "auto" else pooling
    return how, said.get("normalize", False) if normalize is None else normalize


def kind_of(task: str, how: str, is_normal: bool) -> Kind:
    if task in GENERATING:
        from qeffbuild.export import seq2seq, seq2seq_check

        return Kind(
            readings=(_READINGS[0], _WITH_ROOM) if task == TEXT else _READINGS[:1],
            graphs=seq2seq.graphs,
            reference=lambda model, graphs: [],  # it runs when it is held against its graphs
            error=lambda model, graphs, expected, attention, choice: seq2seq_check.error(
                model, graphs, attention, choice
            ),
            stacks=seq2seq.stacks,
            count=seq2seq.count,
        )
    return Kind(
        readings=_READINGS[:1] if task == "ctc" else _READINGS,
        graphs=_at_once(task, how, is_normal),
        reference=encoder_check.reference,
        error=encoder_check.error,
        stacks=_one_stack,
        count=_count,
    )


def _at_once(task: str, how: str, is_normal: bool) -> Callable[[Any, Reading], tuple[Traceable, ...]]:
    if task == "embedding":
        return lambda model, reading: (embedder(model, how, reading, normalize=is_normal),)
    if task == "ctc":
        return lambda model, reading: (listener(model),)
    return lambda model, reading: (classifier(model, reading),)


def _count(model: Any) -> int | None:
    return layers.number_of(model.config)


def _maker(task: str, dtype: str = "float32") -> Make:
    def make(config: Any) -> Any:
        return model_from(config, task, dtype=getattr(torch, dtype), attn_implementation="eager")

    return make


def _graphs(config: Any, make: Make, stored: Mapping[str, Stored], kind: Kind, way: _Way) -> _Made:
    """Each graph of the real model, traced without weights; layers are copied where that is sound."""

    def attempt(copying: bool) -> _Made:
        weightless = Weightless(config, stored, make, kind.stacks if copying else None)
        return _traced(weightless, kind, way)

    made, reason = copied_or_whole(attempt)
    return replace(made, all_layers_because=reason)


def _traced(weightless: Weightless, kind: Kind, way: _Way) -> _Made:
    model, stacks = weightless.model, weightless.stacks
    graphs = []
    for asked in all_in_dtype(kind.graphs(model, way.read(model, weightless.mode)), model):
        made = to_graph(asked, model, way.attention, way.choice, weightless.mode)
        complete = weightless.copied(made, asked)
        weightless.finish(made, asked.graph)
        graphs.append((made, signature_of(made.graph, complete)))
    if stacks:
        count, traced = (sum(numbers) for numbers in zip(*((s.count, s.traced) for s in stacks), strict=True))
        return _Made(graphs=tuple(graphs), layers=count, layers_traced=traced)
    count = kind.count(model)
    return _Made(graphs=tuple(graphs), layers=count, layers_traced=count)


def _one_stack(model: Any) -> tuple[layers.Layers]:
    alike = layers.plan(model)
    if alike.count != layers.number_of(model.config):
        raise layers.NotAlike(f"{alike.path} is not the stack of the model's layers")
    return (alike,)
