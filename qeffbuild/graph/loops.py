"""Marked loops over tokens -> ONNX Scan: prefill and decode in one graph.

Token(whole [B, S, ...]) -> [B, 1, ...]              the loop begins: the token of this turn
StateIn(state, position_ids [B, S]) -> state         what a turn finds: what the one before left, zeros at position 0
StateOut(state, new, position_ids) -> state          what a turn leaves: `new`, or `state` where the position is below 0
Tokens(one [B, 1, ...], position_ids) -> [B, S, ...] the loop ends: the results of all turns

A loop is all that depends on marks of one module and that its ends need. What does not depend on a state (projections,
which are most of the work) is moved out of it first and done for all tokens at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.chunked import Chunks, NotChunked
from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.hoist import BEGIN, END, is_mark
from qeffbuild.graph.marked import Loop, marked_loops


@dataclass(slots=True)
class Lowered:
    """What became of a graph's loops: how many go by chunks, and of the others how many, for what reason."""

    by_chunks: int = 0
    token_by_token: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {"by_chunks": self.by_chunks, "token_by_token": dict(self.token_by_token)}


def lower_loops(graph: ir.Graph, *, chunks: bool = True) -> Lowered:
    """Every marked loop becomes one over chunks of tokens, where that is known and asked for, or by one over tokens."""
    said = Lowered()
    if not any(is_mark(node, BEGIN | END) for node in graph):
        return said
    loops = marked_loops(graph)
    by_chunks = Chunks(graph, _reached(graph))
    for number, loop in enumerate(loops):
        outer = Emitter(graph, f"loop.{number}")
        try:
            if not chunks:
                raise NotChunked("as asked")
            results = by_chunks.write(loop, number, outer, _turn(graph, loop, number))
            said.by_chunks += 1
        except NotChunked as reason:
            results = _scan(graph, loop, number, outer)
            said.token_by_token[str(reason)] += 1
        _replace(graph, loop, results, outer)
    _tidy(graph)
    return said


def one_chunk(graph: ir.Graph) -> int:
    """Every marked loop as the one chunk that a run is: no loop is left. How many tokens a run may have at most.

    Padding has to come behind a row's tokens. Raises NotChunked where a turn's algebra is not known.
    """
    loops = marked_loops(graph)
    if not loops:
        raise NotChunked("no loop is known that writes it")
    chunks, most = Chunks(graph, _reached(graph)), []
    for number, loop in enumerate(loops):
        outer = Emitter(graph, f"loop.{number}")
        results, tokens = chunks.write_one(loop, number, outer)
        most.append(tokens)
        _replace(graph, loop, results, outer)
    _tidy(graph)
    return min(most)


def _tidy(graph: ir.Graph) -> None:
    """Marks that nobody reads any more go; what reads a loop's first result may have stood before its last one."""
    graph.sort()
    graph.remove([node for node in graph if is_mark(node, {"Token"}) and not node.outputs[0].uses()], safe=True)


def _reached(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on the graph's inputs, if only on their shapes."""
    found = {value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def _scan(graph: ir.Graph, loop: Loop, number: int, outer: Emitter) -> tuple[ir.Value, ...]:
    """Scan hands each turn slices without the token axis, so the body puts it back."""
    states = [node.inputs[0] for node in loop.states]
    wholes = [loop.position_ids, *(node.inputs[0] for node in loop.turns)]
    return outer.several(
        "Scan",
        len(states) + len(loop.ends),
        *states,
        *wholes,
        body=_body(graph, loop, number),
        num_scan_inputs=len(wholes),
        scan_input_axes=[1] * len(wholes),
        scan_output_axes=[1] * len(loop.ends),
    )


def _replace(graph: ir.Graph, loop: Loop, results: Sequence[ir.Value], outer: Emitter) -> None:
    gone = dict.fromkeys([*loop.states, *loop.ends])
    outer.place(next(node for node in reversed(graph) if node in gone))
    for node, result in zip(gone, results, strict=True):
        replace_value(graph, node.outputs[0], result)
    for node in reversed([*loop.begins, *loop.nodes]):
        if all(use.node in gone for value in node.outputs for use in value.uses()):  # else another loop has it, too
            gone[node] = None
    graph.remove(gone, safe=True)


def _body(graph: ir.Graph, loop: Loop, number: int) -> ir.Graph:
    """One turn as the body of a Scan."""
    emit = Emitter(graph, f"loop.{number}.body")  # constants stay outside, where a body may read them
    befores = {node.inputs[0]: _like(node.inputs[0], f"loop.{number}.state.{i}") for i, node in enumerate(loop.states)}
    position = ir.Value(name=f"loop.{number}.position", type=loop.position_ids.type, shape=ir.Shape([None]))
    turns, ones = [], {}
    for i, mark in enumerate(loop.turns):
        shape = mark.outputs[0].shape
        cut = None if shape is None else ir.Shape([size for axis, size in enumerate(shape) if axis != 1])
        turns.append(ir.Value(name=f"loop.{number}.turn.{i}", type=mark.outputs[0].type, shape=cut))
        ones[mark.outputs[0]] = emit("Unsqueeze", turns[-1], [1])
    outs = _one_turn(emit, loop, befores, position, ones, "turn")
    outs[len(loop.states) :] = [emit("Squeeze", out, [1]) for out in outs[len(loop.states) :]]
    for value, mark in zip(outs, [*loop.states, *loop.ends], strict=True):
        value.type = mark.outputs[0].type
        if mark in loop.states:
            value.shape = mark.outputs[0].shape
    return ir.Graph([*befores.values(), position, *turns], outs, nodes=emit.waiting(), name=f"loop.{number}")


def _turn(graph: ir.Graph, loop: Loop, number: int) -> ir.Graph:
    """One turn as a branch for runs of one token: nothing enters, it reads what is outside."""
    emit = Emitter(graph, f"loop.{number}.single")
    befores: dict[ir.Value | None, ir.Value] = {node.inputs[0]: _there(node.inputs[0]) for node in loop.states}
    position = emit("Squeeze", loop.position_ids, [1])
    ones = {mark.outputs[0]: _there(mark.inputs[0]) for mark in loop.turns}
    outs = _one_turn(emit, loop, befores, position, ones, "single")
    # A branch has to make what it gives.
    outs = [out if emit.has_made(out) else emit("Identity", out) for out in outs]
    for value, mark in zip(outs, [*loop.states, *loop.ends], strict=True):
        value.type = mark.outputs[0].type
    return ir.Graph([], outs, nodes=emit.waiting(), name=f"loop.{number}.single")


def _one_turn(
    emit: Emitter,
    loop: Loop,
    befores: Mapping[ir.Value | None, ir.Value],
    position: ir.Value,
    ones: Mapping[ir.Value, ir.Value],
    suffix: str,
) -> list[ir.Value]:
    """The states behind one token and what is collected of it; its nodes are the emitter's."""
    copies = dict(ones)
    for mark in loop.begins:
        state, rank = mark.inputs[0], len(mark.outputs[0].shape or ())
        assert state is not None
        is_first = emit("Unsqueeze", emit("Equal", position, 0), list(range(1, rank)))
        zero = np.zeros((), (state.dtype or ir.DataType.FLOAT).numpy())
        copies[mark.outputs[0]] = emit("Where", is_first, zero, befores[state])
    for node in loop.nodes:
        emit.add(_copied(node, copies, suffix))
    outs = [_left(emit, mark, position, befores, copies) for mark in loop.states]
    return outs + [copies[mark.inputs[0]] for mark in loop.ends]  # type: ignore[index]


def _left(
    emit: Emitter,
    mark: ir.Node,
    position: ir.Value,
    befores: Mapping[ir.Value | None, ir.Value],
    copies: dict[ir.Value, ir.Value],
) -> ir.Value:
    state, new = mark.inputs[0], mark.inputs[1]
    assert new is not None
    is_padding = emit("Unsqueeze", emit("Less", position, 0), list(range(1, len(mark.outputs[0].shape or ()))))
    return emit("Where", is_padding, befores[state], copies.get(new, new))


def _copied(node: ir.Node, copies: dict[ir.Value, ir.Value], suffix: str) -> ir.Node:
    inputs = [value if value is None else copies.get(value, value) for value in node.inputs]
    made = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
    made.name = f"{node.name}.{suffix}"
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.name, new.type, new.shape = f"{old.name}.{suffix}", old.type, old.shape
        copies[old] = new
    return made


def _there(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def _like(value: ir.Value | None, name: str) -> ir.Value:
    assert value is not None
    return ir.Value(name=name, type=value.type, shape=value.shape)
