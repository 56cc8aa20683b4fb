"""The story of an export of any task but causal-lm: a small model of the kind is held against PyTorch, then traced.

Its graphs read everything at once or, in an encoder-decoder, are two: weights by reference, as everywhere.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from qeffbuild.errors import ModelError, QeffBuildError
from qeffbuild.export import layers, skeleton, weights
from qeffbuild.export.adapted import adapted
from qeffbuild.export.encoder import classifier, embedder, listener
from qeffbuild.export.finish import finish
from qeffbuild.export.interfaces import interfaces, use, use_its_own
from qeffbuild.export.modules import AnyAttention, Traceable, signature_of, to_graph
from qeffbuild.export.neutral import Progress, _silent
from qeffbuild.export.reasons import explain
from qeffbuild.export.shrink_more import small
from qeffbuild.export.write import write
from qeffbuild.graphs import place
from qeffbuild.models.classes import model_from
from qeffbuild.signature import IoSignature

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
# One op for attention where that gives the same; else the model's own code.
_ATTENTIONS = ("qeffbuild", "eager")

Row = tuple[torch.Tensor, ...]


class Disagreement(Exception):
    """The graphs would compute something else than the model; the message says how far apart they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the graphs were made; export.json."""

    model_type: str
    model_class: str
    task: str
    attention: str
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
    """How one task is traced: model -> its graphs, the main one first; model, graphs -> largest error on small data."""

    graphs: Callable[[Any], tuple[Traceable, ...]]
    error: Callable[[Any, tuple[Traceable, ...], str, AnyAttention], float]
    has_one_stack: bool = True  # of layers, all in one graph


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """The real model's graphs, with references to weights."""

    graphs: tuple[tuple[ir.Model, IoSignature], ...]
    layers: int | None = None
    layers_traced: int | None = None
    all_layers_because: str | None = None


def export(
    facts: Mapping[str, Any],
    out: Path,
    *,
    pooling: str = "auto",
    normalize: bool | None = None,
    progress: Progress = _silent,
) -> Report:
    """Write the graphs, their signatures and export.json into `out`. `facts` is facts.json; no weight is read."""
    torch.set_num_threads(1)
    task, said = facts["task"], facts["config"]
    how, is_normal = embedding_of(facts, pooling, normalize)
    kind = kind_of(task, how, is_normal)
    config = skeleton.configuration(said)
    progress(0.05, "building a small model of the same kind")
    rejected: list[tuple[str, str]] = []
    try:
        tried = skeleton.small_model(skeleton.configuration(small(said, config)), _maker(task))
    except QeffBuildError:
        raise
    except Exception as reason:
        raise _unsupported(said, f"no small model of this kind can be built: {explain(reason)}") from reason
    for attention in _ATTENTIONS:
        choice = AnyAttention()
        try:
            error = kind.error(tried, kind.graphs(tried), attention, choice)
            if not error < TOLERANCE:
                raise Disagreement(f"results differ from PyTorch's by {error:.1e} of their spread")
            progress(0.3, f"tracing: {attention}")
            made = _graphs(config, task, facts, kind, attention, choice)
        except QeffBuildError:
            raise
        except Exception as reason:
            log.debug("attention %s failed", attention, exc_info=True)
            rejected.append((attention, explain(reason)))
            continue
        progress(0.9, "writing")
        for number, (model, signature) in enumerate(made.graphs):
            write(model, place(out, signature, is_main=number == 0).graph)
        report = Report(
            model_type=said["model_type"],
            model_class=type(tried).__name__,
            task=task,
            attention=attention,
            self_check_error=float(f"{error:.0e}"),  # one digit; the rest differs from machine to machine
            fused_attention=tuple(sorted(cls.__name__ for cls, same in choice.fused.items() if same)),
            pooling=how if task == "embedding" else None,
            normalize=is_normal,
            graphs=tuple(signature.graph for _, signature in made.graphs),
            layers=made.layers,
            layers_traced=made.layers_traced,
            all_layers_because=made.all_layers_because,
            rejected=tuple(rejected),
        )
        (out / "export.json").write_text(json.dumps(report.as_json(), indent=1, sort_keys=True) + "\n")
        return report
    raise _unsupported(said, rejected[0][1])


def embedding_of(facts: Mapping[str, Any], pooling: str, normalize: bool | None) -> tuple[str, bool]:
    """How embeddings are made: as asked, else as the model's own files say, else the mean of its tokens."""
    said = facts.get("pooling") or {}
    how = said.get("mode", "mean") if pooling == "auto" else pooling
    return how, said.get("normalize", False) if normalize is None else normalize


def kind_of(task: str, how: str, is_normal: bool) -> Kind:
    if task == "embedding":
        return Kind(graphs=lambda model: (embedder(model, how, normalize=is_normal),), error=_error_at_once)
    if task == "sequence-classification":
        return Kind(graphs=lambda model: (classifier(model),), error=_error_at_once)
    if task == "ctc":
        return Kind(graphs=lambda model: (listener(model),), error=_error_at_once)
    from qeffbuild.export import seq2seq

    return Kind(graphs=seq2seq.graphs, error=seq2seq.error, has_one_stack=False)


def _maker(task: str) -> Callable[[Any], Any]:
    def make(config: Any) -> Any:
        return model_from(config, task, dtype=torch.float32, attn_implementation="eager")

    return make


def _graphs(
    config: Any, task: str, facts: Mapping[str, Any], kind: Kind, attention: str, choice: AnyAttention
) -> _Made:
    """Each graph of the real model, traced without weights; layers are copied where that is sound."""
    try:
        return _attempt(config, task, facts, kind, attention, choice, copying=kind.has_one_stack)
    except layers.NotAlike as reason:
        made = _attempt(config, task, facts, kind, attention, choice, copying=False)
        log.info("all layers are traced: %s", reason)
        return replace(made, all_layers_because=str(reason))


def _attempt(
    config: Any,
    task: str,
    facts: Mapping[str, Any],
    kind: Kind,
    attention: str,
    choice: AnyAttention,
    *,
    copying: bool,
) -> _Made:
    model = skeleton.skeleton(config, _maker(task))
    sources = weights.find_sources(model, weights.stored_tensors(facts))
    weights.untie(model, sources)
    names, buffers = weights.aliases(model), dict(model.named_buffers())
    shapes = weights.shapes_of(model)
    tables = dict(_tables_by_rule(model, [name for name in names if not any(n in sources for n in names[name])]))
    alike = _one_stack(model) if copying else None
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode.cache_enabled = False
    skeleton.make_fake(model, mode)
    graphs = []
    for asked in kind.graphs(model):
        made = to_graph(asked, model, attention, choice, mode)
        if alike is not None:
            layers.expand(made.graph, alike, (), buffers)
        _drop_unread(made.graph)
        _fill_in(made.graph, tables)
        weights.refer(made.graph, sources, {k: v for k, v in names.items() if k not in tables}, shapes)
        finish(made)
        made.graph.name = asked.graph
        graphs.append((made, signature_of(made.graph, asked)))
    count = layers.number_of(config) if kind.has_one_stack else None
    return _Made(graphs=tuple(graphs), layers=count, layers_traced=alike.traced if alike else count)


def _one_stack(model: Any) -> layers.Layers:
    """The model's layers, cut to those that are traced."""
    alike = layers.plan(model)
    if alike.count != layers.number_of(model.config):
        raise layers.NotAlike(f"{alike.path} is not the stack of the model's layers")
    layers.cut(model, alike)
    return alike


def _tables_by_rule(model: Any, missing: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters that no checkpoint holds because a rule gives them (sinusoids): made twice, they are the same."""
    for name in missing:
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        if not isinstance(module, torch.nn.Embedding):
            continue
        made = []
        for _ in range(2):
            real = copy.copy(module)
            table = torch.nn.Parameter(torch.empty(model.get_parameter(name).shape), requires_grad=False)
            real._parameters = {attribute: table}
            with torch.no_grad():
                model._init_weights(real)
            made.append(real.get_parameter(attribute))
        if torch.equal(*made):
            yield name, made[0]


def _fill_in(graph: ir.Graph, tables: Mapping[str, torch.Tensor]) -> None:
    for name, value in graph.initializers.items():
        if (table := tables.get(name.removeprefix(weights.PREFIX))) is not None:
            value.const_value = ir.tensor(table.numpy(), name=name)


def _drop_unread(graph: ir.Graph) -> None:
    """Parameters that no output depends on (a pooler, a decoder) need not be in the checkpoint."""
    outputs = set(graph.outputs)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs:
            del graph.initializers[name]


@torch.no_grad()
def _error_at_once(model: Any, graphs: tuple[Traceable, ...], attention: str, choice: AnyAttention) -> float:
    """Rows of several lengths, alone through PyTorch and together, padded, through what is traced."""
    (asked,) = graphs
    is_sound = asked.inputs[0].dtype == "float32"
    rows = _sounds() if is_sound else _texts(asked)
    use_its_own(model)
    with adapted(model):
        expected = [asked.module(*row)[0] for row in rows]
    use(model, attention)
    errors = []
    with interfaces(choice), adapted(model):
        choice.measuring = True
        asked.module(*rows[0])
        choice.measuring = False
        if is_sound:  # what is heard after a row's end would change its norms, so rows of one length go together
            made = [asked.module(*row)[0] for row in rows]
        else:
            together = asked.module(*_padded(rows))[0]
            made = [together[place : place + 1] for place in range(len(rows))]
    for wanted, found in zip(expected, made, strict=True):
        found = found[:, : wanted.shape[1]] if found.dim() == 3 else found
        errors.append(float((found - wanted).abs().max() / wanted.std().clamp(min=1e-3)))
    return max(errors)


def _texts(asked: Traceable) -> list[Row]:
    rows = []
    for number, length in enumerate((11, 7)):
        ids = (torch.arange(length) * (37 + number) + 11 * number + 20)[None] % 200 + 20
        types = (torch.arange(length) >= length // 2).long()[None]
        of = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
        rows.append(tuple(of[tensor.name] for tensor in asked.inputs))
    return rows


def _sounds() -> list[Row]:
    return [(torch.sin(torch.arange(length) ** 1.1 / 7)[None],) for length in (4800, 6400)]


def _padded(rows: Sequence[Row]) -> Row:
    longest = max(row[0].shape[1] for row in rows)
    columns = zip(*rows, strict=True)
    return tuple(
        torch.cat([torch.nn.functional.pad(tensor, (0, longest - tensor.shape[1])) for tensor in column])
        for column in columns
    )


def _unsupported(said: Mapping[str, Any], why: str) -> ModelError:
    return ModelError(
        "model.unsupported",
        f"{said['model_type']}: {why}",
        hint="no way of tracing this model reproduces PyTorch's results; the log of this step lists them all",
    )
