"""Each key and value head is kept several times, so that heads divide over devices.

A head's copy is made where its numbers are made: the repetition is carried up from the cache through whatever treats
heads alike (rotary embedding, norms, transposes) to the projection, whose weight is then read several times by
reference. What it cannot be carried through is repeated there, as numbers.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.errors import ModelError
from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.ops import ATTENTION, SCATTER, given, size_of, symbolic
from qeffbuild.graph.repeating import Repetition, with_axis
from qeffbuild.signature import State
from qeffbuild.transforms.subject import Subject


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    times: int = said["times"]
    states = _with_heads(subject.signature.states)
    heads = [number for number in range(int(states[0].axes[1])) for _ in range(times)]
    work = Repetition(subject.graph)
    values = {value.name: value for value in subject.graph.inputs}
    for state in states:
        values[state.name].shape = with_axis(values[state.name], 1, int(state.axes[1]) * times)
    caches = [values[state.name] for state in states]
    written = {node.outputs[0]: node for node in symbolic(subject.graph, SCATTER) if node.inputs[0] in caches}
    # What is asked of both as they are kept may read all copies.
    alike = {node for node in symbolic(subject.graph, ATTENTION) if {*given(node)[1:3]} <= {*written}}
    for node in written.values():
        _repeat_updates(work, node, times, alike)
    for node in symbolic(subject.graph, ATTENTION):
        query, keys, *_ = given(node)
        if size_of(query, 1) % size_of(keys, 1):
            raise _unfit(f"{size_of(keys, 1)} key heads do not divide {size_of(query, 1)} attention heads")
    remove_unread(subject.graph)
    kept = tuple(_repeated(state, times) if state in states else state for state in subject.signature.states)
    subject.signature = subject.signature.with_states(kept)
    subject.report |= {"heads": len(heads), "weights": work.weights, "activations": work.activations}


def _with_heads(states: tuple[State, ...]) -> tuple[State, ...]:
    """Keys and values; what else a layer keeps stays as it is."""
    found = tuple(state for state in states if state.kind in ("key", "value"))
    for state in found or states:
        if state not in found or len(state.axes) != 4 or not isinstance(state.axes[1], int):
            raise _unfit(f"state {state.name} has no axis of heads")
    return found


def _repeated(state: State, times: int) -> State:
    return replace(state, axes=(state.axes[0], int(state.axes[1]) * times, *state.axes[2:]))


def _repeat_updates(work: Repetition, node: ir.Node, times: int, alike: Container[ir.Node]) -> None:
    """The write takes every head `times` times; whoever counts heads himself reads one of each."""
    _, _, updates = given(node)
    before = size_of(updates, 1)
    node.replace_input_with(2, work.repeated(updates, 1, np.repeat(np.arange(before), times)))
    work.emit.place(node)
    written = node.outputs[0]
    single: ir.Value | None = None
    old = ir.Shape(written.shape or ())
    written.shape = with_axis(written, 1, before * times)
    for reader, place in list(written.uses()):
        if reader in alike:
            continue
        if single is None:
            single = work.emit("Gather", written, np.arange(before) * times, axis=1)
            single.shape, single.type = old, written.type
            _place_after(work, node)
        reader.replace_input_with(place, single)


def _place_after(work: Repetition, node: ir.Node) -> None:
    work.graph.insert_after(node, work.emit.waiting())


def _unfit(what: str) -> ModelError:
    return ModelError("onnx.unsupported", f"kv_head_replication: {what}", hint="leave model.kv_head_replication out")
