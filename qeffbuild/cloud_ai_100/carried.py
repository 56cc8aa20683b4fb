"""States that are no keys and values of attention -> retained states of the device, where its compiler has a form.

A state that passes from token to token is written by a loop, and the compiler has none. Where no run is longer than a
chunk that is done at once by products of matrices (`graph.chunked`), a run is that chunk; where every run is of one
token, the loop is one turn; and nothing of the loop is left. Keys of an indexer, which have no heads, are a cache of
one head. A text that is kept to be computed anew has no form: it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qeffbuild.cloud_ai_100.names import IMAGE
from qeffbuild.errors import ModelError
from qeffbuild.graph.chunked import NotChunked
from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.files import DOMAIN
from qeffbuild.graph.hoist import BEGIN, END, is_mark
from qeffbuild.graph.loops import one_chunk
from qeffbuild.graph.ops import SCATTER, given, symbolic
from qeffbuild.signature import IoSignature, State

_OF_PASSES = ("adapter", "buffer")  # states that passes have added, which are written in ways of their own


def without_loops(graph: ir.Graph, states: Iterable[State], longest: int | None) -> None:
    """Loops over tokens, for runs of at most `longest` tokens (None: longer than any chunk), as what they come to."""
    carried = []
    for state in states:
        if state.kind == "token":
            raise ModelError(
                "onnx.unsupported",
                f"graph: state {state.name} is the text itself, of which every step computes all anew",
                hint="this model keeps its past in no cache of transformers: build it for backend=onnxruntime",
            )
        if state.kind not in _OF_PASSES and not (state.positional and len(state.axes) in (3, 4)):
            carried.append(state.name)
    if carried and longest == 1:
        _one_turn(graph)
    elif carried:
        _one_chunk(graph, carried[0], longest)


def _one_chunk(graph: ir.Graph, state: str, longest: int | None) -> None:
    loop = f"graph: state {state} passes from token to token by a loop, which the compiler does not have"
    try:
        most = one_chunk(graph)
    except NotChunked as reason:
        hint = f"specialization.prefill_seq_len=1: runs of one token need no loop; longer ones would ({reason})"
        raise ModelError("onnx.unsupported", loop, hint=hint) from reason
    if longest is None or longest > most:
        hint = f"specialization.prefill_seq_len={most} without drafts: so short a run needs no loop"
        raise ModelError("onnx.unsupported", loop, hint=hint)


def is_carried(state: State) -> bool:
    """Replaced whole by every run, a row of it for each row of the batch."""
    return not state.positional and state.kind not in ("adapter", IMAGE)


def _one_turn(graph: ir.Graph) -> None:
    """Marked loops (`graph.loops`), where every run has one token: values instead of marks."""
    emit = Emitter(graph, "turn")
    for node in [node for node in graph if is_mark(node, BEGIN | END)]:
        first, rank = node.inputs[0], len(node.outputs[0].shape or ())
        assert first is not None
        if node.op_type in ("Token", "Tokens"):
            made = emit("Identity", first)
        else:
            position = node.inputs[-1]
            assert position is not None
            if rank > 2:
                position = emit("Unsqueeze", position, list(range(2, rank)))
            if node.op_type == "StateIn":
                zero = np.zeros((), (first.dtype or ir.DataType.FLOAT).numpy())
                # What memory held before a text began may be no number, so it is not multiplied.
                made = emit("Where", emit("Equal", position, 0), zero, first)
            else:
                new = node.inputs[1]
                assert new is not None
                made = emit("Where", emit("Less", position, 0), first, new)
        made.shape, made.type = node.outputs[0].shape, node.outputs[0].type
        replace_value(graph, node.outputs[0], made)
        emit.place(node)


def with_heads(graph: ir.Graph, signature: IoSignature) -> IoSignature:
    """Caches [rows, slots, width] become [rows, 1, slots, width], as all others are."""
    flat = [state for state in signature.states if state.positional and len(state.axes) == 3]
    if not flat:
        return signature
    emit, inputs = Emitter(graph, "heads"), {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}
    writes = {_origin(given(node)[0]): node for node in symbolic(graph, SCATTER)}
    changed = {}
    for state in flat:
        old, write = inputs[state.name], writes.get(inputs[state.name])
        if write is None:
            raise ModelError("onnx.unsupported", f"graph: state {state.name} is not written as a cache is")
        changed[state.name] = replace(state, axes=(state.axes[0], 1, *state.axes[1:]))
        new = ir.Value(name=state.name, shape=ir.Shape(changed[state.name].axes), type=old.type)
        graph.inputs[list(graph.inputs).index(old)] = new
        old.name = f"{state.name}.flat"
        flattened = emit("Squeeze", new, [1])
        flattened.shape, flattened.type = old.shape, old.type
        old.replace_all_uses_with(flattened)
        emit.place(graph[0])
        write.replace_input_with(0, new)
        before, written = outputs[state.output], write.outputs[0]
        graph.outputs[list(graph.outputs).index(before)] = written
        before.name, written.name = f"{state.output}.flat", state.output
    return signature.with_states(tuple(changed.get(state.name, state) for state in signature.states))


def _origin(value: ir.Value) -> ir.Value:
    """What a cache was before an axis for heads was put in."""
    node = value.producer()
    while node is not None and node.op_type in ("Unsqueeze", "Identity", "Reshape") and node.domain != DOMAIN:
        value = node.inputs[0]  # type: ignore[assignment]
        node = value.producer()
    return value
