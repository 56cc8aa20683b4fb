"""A decoder whose parameters may be fake -> an ONNX graph with named inputs, outputs and axes.

Batch, tokens, context and number of logits are free; everything else is fixed by the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch

from qeffbuild.export import ops, translations
from qeffbuild.export.adapted import adapted
from qeffbuild.export.decoder import INPUTS, Decoder
from qeffbuild.export.interfaces import AttentionChoice, interfaces, use
from qeffbuild.export.shrink import positions
from qeffbuild.export.sizes import FixedAxis, contexts, longest_context, named_constants
from qeffbuild.export.transformers_patches import to_onnx_program, traceable
from qeffbuild.signature import Axis

OPSET = 20
# No two alike and none 0 or 1, so that no size is taken for another or for a constant.
BATCH, TOKENS, LOGITS, CTX_LEN = 2, 3, 5, 24
SYMBOL = re.compile(r"[su]\d+")


def trace(decoder: Decoder, choice: AttentionChoice, *, decompose: bool) -> tuple[ir.Model, int | None]:
    """One graph for prefill and decode, and the longest context that it holds for, if there is one.

    Scopes stay in the nodes' metadata: `layers` finds the layers by them.
    """
    specs = decoder.form.states
    use(decoder.model, decoder.recipe.attention)
    with interfaces(choice), adapted(decoder.model), traceable(decoder.model), named_constants():
        program = torch.export.export(decoder, _example(decoder), dynamic_shapes=_free_axes(decoder), strict=False)
    longest, why = longest_context(program, list(_axes(decoder)), contexts(positions(decoder.model.config)))
    if longest is not None and not decoder.recipe.recompute:
        raise FixedAxis(why)
    names = [*INPUTS, *(spec.name for spec in specs)]
    outputs = ["logits", *(spec.output for spec in specs)]
    made = to_onnx_program(
        program,
        input_names=names,
        output_names=outputs,
        translations={**translations.TRANSLATIONS, **ops.TRANSLATIONS},
        opset=OPSET,
        decompose=decompose,
    )
    _name_axes(made.model.graph, decoder)
    return made.model, longest


def _example(decoder: Decoder) -> tuple[Any, ...]:
    tokens = torch.ones(BATCH, TOKENS, dtype=torch.long)
    positions = torch.arange(TOKENS).repeat(BATCH, 1)
    index = torch.zeros(BATCH, LOGITS, dtype=torch.long)
    return tokens, positions, index, [spec.zeros(BATCH, CTX_LEN) for spec in decoder.form.states]


def _free_axes(decoder: Decoder) -> tuple[Any, ...]:
    free, derived = torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO
    states = []
    for spec in decoder.form.states:
        axes = {spec.batch_axis: derived}
        if spec.ctx_axis is not None:
            axes[spec.ctx_axis] = derived
        states.append(axes)
    return {0: free, 1: free}, {0: derived, 1: derived}, {0: derived, 1: free}, states


def _name_axes(graph: ir.Graph, decoder: Decoder) -> None:
    """torch's symbols are numbered by chance; ours say what they count, in every shape of the graph."""
    wanted: dict[str, tuple[str, ...]] = {
        "input_ids": ("batch_size", "seq_len"),
        "logits_index": ("batch_size", "num_logits"),
    }
    for spec in decoder.form.states:
        wanted[spec.name] = tuple(str(axis) for axis in spec.signed().axes)
    names = {}
    for value in graph.inputs:
        assert value.shape is not None
        for axis, name in zip(value.shape, wanted.get(value.name or "", ()), strict=False):
            if isinstance(axis, ir.SymbolicDim) and axis.value is not None:
                names[axis.value] = name
    values = [*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_named(axis, names) for axis in value.shape])


def _axes(decoder: Decoder) -> Iterator[tuple[Axis, ...]]:
    """What the axes of the inputs are called, in the order of the inputs."""
    yield from (("batch_size", "seq_len"), ("batch_size", "seq_len"), ("batch_size", "num_logits"))
    yield from (spec.signed().axes for spec in decoder.form.states)


def _named(axis: int | ir.SymbolicDim, names: dict[str, str]) -> int | str | None:
    """The axis in our words; None where it depends on a symbol that is none of ours."""
    if isinstance(axis, int):
        return axis
    if axis.value is None:
        return None
    said = SYMBOL.sub(lambda found: names.get(found.group(), found.group()), axis.value)
    return None if SYMBOL.search(said) else said
