"""Marked loops over tokens -> ONNX Scan: prefill and decode in one graph.

Token(whole [B, S, ...]) -> [B, 1, ...]              the loop begins: the token of this turn
StateIn(state, position_ids [B, S]) -> state         what a turn finds: what the one before left, zeros at position 0
StateOut(state, new, position_ids) -> state          what a turn leaves: `new`, or `state` where the position is below 0
Tokens(one [B, 1, ...], position_ids) -> [B, S, ...] the loop ends: the results of all turns

A loop is all that depends on marks of one module and that its ends need. What does not depend on a state (projections,
which are most of the work) is moved out of it first and done for all tokens at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.hoist import BEGIN, END, hoist, is_mark


def lower_loops(graph: ir.Graph) -> int:
    """Replace every marked loop by a Scan; how many there were."""
    if not any(is_mark(node, BEGIN | END) for node in graph):
        return 0
    hoist(graph)
    loops = _loops(graph)
    for number, loop in enumerate(loops):
        _to_scan(graph, loop, number)
    graph.remove([node for node in graph if is_mark(node, {"Token"}) and not node.outputs[0].uses()], safe=True)
    return len(loops)


@dataclass(slots=True)
class _Loop:
    """`turns` are values with a token axis that are cut, `states` pairs of marks, `ends` what is collected."""

    position_ids: ir.Value
    nodes: list[ir.Node] = field(default_factory=list)
    turns: list[ir.Node] = field(default_factory=list)
    begins: list[ir.Node] = field(default_factory=list)
    states: list[ir.Node] = field(default_factory=list)
    ends: list[ir.Node] = field(default_factory=list)


def _loops(graph: ir.Graph) -> list[_Loop]:
    """Marks and what is between them, apart by what hangs together; a shared Token alone joins nothing."""
    order = {node: place for place, node in enumerate(graph)}
    group: dict[ir.Node, ir.Node] = {}

    def leader(node: ir.Node) -> ir.Node:
        while group.setdefault(node, node) is not node:
            node = group[node]
        return node

    inside: set[ir.Value] = set()
    for node in graph:
        entering = [value for value in node.inputs if value in inside]
        if is_mark(node, BEGIN):
            inside.update(node.outputs)
        if not entering and not is_mark(node, {"StateIn", "StateOut"}):
            continue
        for value in entering:
            maker = value.producer() if value is not None else None
            if maker is not None and not is_mark(maker, {"Token"}):
                group[leader(node)] = leader(maker)
        leader(node)
        if not is_mark(node, END):
            inside.update(node.outputs)
    found: dict[ir.Node, _Loop] = {}
    for node in sorted(group, key=order.__getitem__):
        loop = found.get(leader(node))
        if loop is None:
            loop = found[leader(node)] = _Loop(position_ids=_positions(node, group, leader))
        _sort_in(node, loop)
    return sorted(found.values(), key=lambda loop: order[loop.ends[0] if loop.ends else loop.states[0]])


def _positions(node: ir.Node, group: dict[ir.Node, ir.Node], leader: Callable[[ir.Node], ir.Node]) -> ir.Value:
    mark = next(other for other in group if leader(other) is leader(node) and is_mark(other, END))
    position_ids = mark.inputs[-1]
    assert position_ids is not None
    return position_ids


def _sort_in(node: ir.Node, loop: _Loop) -> None:
    if is_mark(node, {"StateIn"}):
        loop.begins.append(node)
    elif is_mark(node, {"StateOut"}):
        loop.states.append(node)
    elif is_mark(node, {"Tokens"}):
        loop.ends.append(node)
    else:
        loop.nodes.append(node)
    for value in node.inputs:
        mark = value.producer() if value is not None else None
        if mark is not None and is_mark(mark, {"Token"}) and mark not in loop.turns:
            loop.turns.append(mark)


def _to_scan(graph: ir.Graph, loop: _Loop, number: int) -> None:
    """Scan hands each turn slices without the token axis, so the body puts it back."""
    states = [node.inputs[0] for node in loop.states]
    wholes = [loop.position_ids, *(node.inputs[0] for node in loop.turns)]
    body = _body(graph, loop, number)
    outer = Emitter(graph, f"loop.{number}")
    results = outer.several(
        "Scan",
        len(states) + len(loop.ends),
        *states,
        *wholes,
        body=body,
        num_scan_inputs=len(wholes),
        scan_input_axes=[1] * len(wholes),
        scan_output_axes=[1] * len(loop.ends),
    )
    last = max([*loop.states, *loop.ends], key=lambda node: _place(graph, node))
    outer.place(last)
    for node, result in zip([*loop.states, *loop.ends], results, strict=True):
        replace_value(graph, node.outputs[0], result)
    graph.remove([*loop.states, *loop.ends, *loop.nodes, *loop.begins], safe=True)


def _place(graph: ir.Graph, node: ir.Node) -> int:
    return next(place for place, other in enumerate(graph) if other is node)


def _body(graph: ir.Graph, loop: _Loop, number: int) -> ir.Graph:
    body = ir.Graph([], [], nodes=[], name=f"loop.{number}")
    emit = Emitter(graph, f"loop.{number}.body")  # constants stay outside, where a body may read them
    copies: dict[ir.Value, ir.Value] = {}
    befores: dict[ir.Value | None, ir.Value] = {}
    for i, node in enumerate(loop.states):
        befores[node.inputs[0]] = _like(node.inputs[0], f"loop.{number}.state.{i}")
    position = ir.Value(name=f"loop.{number}.position", type=loop.position_ids.type, shape=ir.Shape([None]))
    turns = []
    for i, mark in enumerate(loop.turns):
        shape = mark.outputs[0].shape
        cut = None if shape is None else ir.Shape([size for axis, size in enumerate(shape) if axis != 1])
        turns.append(ir.Value(name=f"loop.{number}.turn.{i}", type=mark.outputs[0].type, shape=cut))
        copies[mark.outputs[0]] = emit("Unsqueeze", turns[-1], [1])
    body.inputs.extend([*befores.values(), position, *turns])
    for mark in loop.begins:
        state, rank = mark.inputs[0], len(mark.outputs[0].shape or ())
        assert state is not None
        is_first = emit("Unsqueeze", emit("Equal", position, 0), list(range(1, rank)))
        zero = np.zeros((), (state.dtype or ir.DataType.FLOAT).numpy())
        copies[mark.outputs[0]] = emit("Where", is_first, zero, befores[state])
    copied = [_copied(node, copies) for node in loop.nodes]
    begun = emit.waiting()
    outs = [_left(emit, mark, position, befores, copies) for mark in loop.states]
    outs += [emit("Squeeze", copies[mark.inputs[0]], [1]) for mark in loop.ends]  # type: ignore[index]
    for value, mark in zip(outs, loop.states, strict=False):
        value.type, value.shape = mark.outputs[0].type, mark.outputs[0].shape
    for value, mark in zip(outs[len(loop.states) :], loop.ends, strict=True):
        value.type = mark.outputs[0].type
    body.extend([*begun, *copied, *emit.waiting()])
    body.outputs.extend(outs)
    return body


def _left(
    emit: Emitter,
    mark: ir.Node,
    position: ir.Value,
    befores: dict[ir.Value | None, ir.Value],
    copies: dict[ir.Value, ir.Value],
) -> ir.Value:
    state, new = mark.inputs[0], mark.inputs[1]
    assert new is not None
    is_padding = emit("Unsqueeze", emit("Less", position, 0), list(range(1, len(mark.outputs[0].shape or ()))))
    return emit("Where", is_padding, befores[state], copies.get(new, new))


def _copied(node: ir.Node, copies: dict[ir.Value, ir.Value]) -> ir.Node:
    inputs = [value if value is None else copies.get(value, value) for value in node.inputs]
    made = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
    made.name = f"{node.name}.turn"
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.name, new.type, new.shape = f"{old.name}.turn", old.type, old.shape
        copies[old] = new
    return made


def _like(value: ir.Value | None, name: str) -> ir.Value:
    assert value is not None
    return ir.Value(name=name, type=value.type, shape=value.shape)
