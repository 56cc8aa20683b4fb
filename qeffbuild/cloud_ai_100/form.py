"""What a graph in Cloud AI 100 form takes and gives, by what was asked of it: names, order and axes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import onnx_ir as ir

from qeffbuild.cloud_ai_100.carried import is_carried
from qeffbuild.cloud_ai_100.names import IMAGE
from qeffbuild.errors import ModelError
from qeffbuild.signature import Axis, IoSignature, State, Tensor

# Of a neutral graph's inputs; passes may have added others.
_OURS = ("input_ids", "inputs_embeds", "position_ids", "logits_index")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Which further inputs the graph has, and a suffix for the names of its states."""

    continuous_batching: bool = False
    comp_ctx_lengths: bool = False
    num_logits_to_keep: bool = False
    kv_cache_prefix: str | None = None
    sub_functions: bool = False  # a function per kind of decoder layer
    longest_run: int | None = None  # how many tokens a run has at most; None: more than can be done without a loop
    rings_below: int | None = None  # states of layers whose window is shorter than this are as long as the window


def signature_of(neutral: IoSignature, form: Form) -> IoSignature:
    """That of the graph once it is lowered."""
    said = {tensor.name: tensor for tensor in neutral.inputs}
    inputs = [said["inputs_embeds" if "inputs_embeds" in said else "input_ids"], said["position_ids"]]
    if form.comp_ctx_lengths:
        inputs.append(Tensor(name="comp_ctx_lengths", dtype="int64", axes=("comp_ctx_lengths",)))
    if form.continuous_batching:
        inputs.append(Tensor(name="batch_index", dtype="int64", axes=("batch_size", 1)))
    if form.num_logits_to_keep:
        inputs.append(Tensor(name="num_logits_to_keep", dtype="int64", axes=("num_logits_to_keep", 1)))
    inputs += [tensor for tensor in neutral.inputs if tensor.name not in _OURS]
    kept: Axis = "num_logits_to_keep" if form.num_logits_to_keep else 1
    return IoSignature(
        graph=neutral.graph,
        inputs=tuple(inputs),
        outputs=tuple(_output(output, kept) for output in neutral.outputs),
        states=tuple(_state(state, form) for state in neutral.states),
    )


def _output(output: Tensor, kept: Axis) -> Tensor:
    return output if len(output.axes) < 3 else replace(output, axes=("batch_size", kept, *output.axes[2:]))


def _state(state: State, form: Form) -> State:
    if state.kind in ("adapter", IMAGE):
        return state
    if is_carried(state):
        rows = "full_batch_size" if form.continuous_batching else "batch_size"
        return replace(state, axes=(rows, *state.axes[1:]))
    name = state.name if form.kv_cache_prefix is None else f"{state.name}_{form.kv_cache_prefix}"
    rows = "full_batch_size" if form.continuous_batching else "batch_size"
    return replace(state, name=name, output=f"{name}_RetainedState", axes=(rows, *state.axes[1:]))


def set_io(graph: ir.Graph, neutral: IoSignature, lowered: IoSignature) -> None:
    """Names, axes and order as the signature says."""
    values = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    for old, new in zip(neutral.states, lowered.states, strict=True):
        for before, after in ((old.name, new.name), (old.output, new.output)):
            values[after] = values[before]
            values[after].name = after
            values[after].shape = ir.Shape(new.axes)
    for tensor in (*lowered.inputs, *lowered.outputs):
        values[tensor.name].shape = ir.Shape(tensor.axes)
    graph.inputs[:] = [values[name] for name in _names(lowered.inputs, [state.name for state in lowered.states])]
    graph.outputs[:] = [values[name] for name in _names(lowered.outputs, [state.output for state in lowered.states])]


def _names(tensors: Iterable[Tensor], states: list[str]) -> list[str]:
    return [*(tensor.name for tensor in tensors), *states]


def unsupported(what: str) -> ModelError:
    """What no compiler for these devices could make of a graph."""
    return ModelError("onnx.unsupported", f"graph: {what}", hint="this model needs another backend")
