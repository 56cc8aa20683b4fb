"""States of sliding layers that are as long as their window: a token's slot is its position modulo the window.

A run reads the ring as it was before, followed by its own tokens: what the first tokens of a chunk still see, the last
ones have already overwritten. To whoever reads, it looks like a cache of the whole context, so masks stay as they are.
Positions of a row count up by one, from run to run and within each: so it is in every mode but speculation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qeffbuild.cloud_ai_100.cache_ops import DOMAIN, NOWHERE
from qeffbuild.graph.emit import Emitter
from qeffbuild.signature import IoSignature, State

AXIS = "sliding_window"  # its size is a symbol of its own, and there is one


def with_rings(signature: IoSignature, ctx_len: int | None) -> IoSignature:
    """States of layers whose window is shorter than `ctx_len` get the axis of that name; None: no state does.

    Another state has to say how long the context is, and windows of different lengths have no names of their own: such
    a model keeps all states whole.
    """
    if ctx_len is None:
        return signature
    slides = [state.positional and state.window is not None and state.window < ctx_len for state in signature.states]
    windows = {state.window for state, does in zip(signature.states, slides, strict=True) if does}
    if len(windows) != 1 or all(does or not is_whole(s) for s, does in zip(signature.states, slides, strict=True)):
        return signature
    return signature.with_states(
        tuple(_as_ring(state) if does else state for state, does in zip(signature.states, slides, strict=True))
    )


def is_ring(state: State) -> bool:
    return AXIS in state.axes


def is_whole(state: State) -> bool:
    return "ctx_len" in state.axes


def _as_ring(state: State) -> State:
    return replace(state, axes=tuple(AXIS if axis == "ctx_len" else axis for axis in state.axes))


@dataclass(frozen=True, slots=True)
class Rings:
    """What all rings of a graph share: their length [1], each token's slot [B, S], each position's place [B, 1, L]."""

    length: ir.Value
    targets: ir.Value
    places: ir.Value
    context: ir.Value

    def read(self, emit: Emitter, cache: ir.Value, updates: ir.Value, batch_index: ir.Value | None) -> ir.Value:
        """The cache before this run and the run's own tokens, as if it were a cache of the whole context."""
        if batch_index is not None:
            slots = emit("Unsqueeze", emit("Range", 0, emit("Squeeze", self.length), 1), [0, 1])
            rows = emit("Shape", self.places, start=0, end=1)
            slots = emit("Expand", slots, emit("Concat", rows, [1, 1], axis=0))
            cache = emit("CtxGatherCB", cache, batch_index, slots, self.length, domain=DOMAIN)
        both = emit("Concat", cache, updates, axis=2)
        return emit("CtxGather", both, self.places, self.context, domain=DOMAIN)


def rings(emit: Emitter, cache: ir.Value, positions: ir.Value, context: ir.Value) -> Rings:
    """`cache` is one of the rings, `positions` those of the tokens, `context` [1] how many positions are read."""
    window = emit("Shape", cache, start=2, end=3)
    newest = emit("ReduceMax", positions, axes=[1], keepdims=1)
    # A token that this run itself overwrites is not written: two writes to one slot have no order.
    is_dropped = emit("Or", emit("Less", positions, 0), emit("LessOrEqual", positions, emit("Sub", newest, window)))
    targets = emit("Where", is_dropped, np.array(NOWHERE, np.int64), emit("Mod", positions, window))

    tokens = emit("Cast", emit("GreaterOrEqual", positions, 0), to=int(ir.DataType.INT64))
    count = emit("ReduceSum", tokens, [1], keepdims=1)
    column = emit("ArgMax", emit("Cast", positions, to=int(ir.DataType.INT32)), axis=1, keepdims=1)
    last = emit("Unsqueeze", emit("Add", window, column), [2])  # the place of the newest token
    newest, count = emit("Unsqueeze", newest, [2]), emit("Unsqueeze", count, [2])
    asked = emit("Unsqueeze", emit("Range", 0, emit("Squeeze", context), 1), [0, 1])
    # What comes after the newest token is unwritten: the newest itself stands in, which is finite and masked there.
    behind = emit("Max", emit("Sub", newest, asked), 0)
    places = emit("Where", emit("Less", behind, count), emit("Sub", last, behind), emit("Mod", asked, window))
    # An idle row has no token of its own, and nobody reads what it gives.
    return Rings(length=window, targets=targets, places=places, context=context)
