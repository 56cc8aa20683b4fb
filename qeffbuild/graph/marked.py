"""Marks in a graph -> its loops over tokens: which nodes are one turn, and what goes in and comes out of it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from qeffbuild.graph.hoist import BEGIN, END, hoist, is_mark


@dataclass(slots=True)
class Loop:
    """`turns` are values with a token axis that are cut, `states` pairs of marks, `ends` what is collected."""

    position_ids: ir.Value
    nodes: list[ir.Node] = field(default_factory=list)
    turns: list[ir.Node] = field(default_factory=list)
    begins: list[ir.Node] = field(default_factory=list)
    states: list[ir.Node] = field(default_factory=list)
    ends: list[ir.Node] = field(default_factory=list)


def marked_loops(graph: ir.Graph) -> list[Loop]:
    """Marks and what has to be between them, apart by what hangs together: by a state, and by what is made of one.

    What is made of tokens alone joins nothing: layers share what they ask of positions. Each loop has it for itself.
    """
    hoist(graph)
    order = {node: place for place, node in enumerate(graph)}
    group: dict[ir.Node, ir.Node] = {}

    def leader(node: ir.Node) -> ir.Node:
        while group.setdefault(node, node) is not node:
            node = group[node]
        return node

    of_tokens: set[ir.Node] = set()
    inside: set[ir.Value] = set()
    for node in graph:
        makers = [value.producer() for value in node.inputs if value is not None and value in inside]
        if is_mark(node, BEGIN) or makers:
            inside.update(() if is_mark(node, END) else node.outputs)
        joined = [maker for maker in makers if maker in group]
        if is_mark(node, {"StateIn", "StateOut"}):
            joined += [other for use in node.inputs[0].uses() if (other := use.node) in group]  # type: ignore[union-attr]
        elif not joined and not is_mark(node, END):
            of_tokens.update([node] if makers else [])
            continue
        for other in joined:
            group[leader(node)] = leader(other)
        leader(node)
    members: dict[ir.Node, list[ir.Node]] = {}
    for node in group:
        members.setdefault(leader(node), []).append(node)
    loops = [_loop(sorted(_with_makers(nodes, of_tokens), key=order.__getitem__)) for nodes in members.values()]
    return sorted(loops, key=lambda loop: order[loop.ends[0] if loop.ends else loop.states[0]])


def _with_makers(nodes: Iterable[ir.Node], among: Container[ir.Node]) -> set[ir.Node]:
    """The nodes, and of the others what they are made of."""
    found, waiting = set[ir.Node](), list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            makers = (value.producer() for value in node.inputs if value is not None)
            waiting += [maker for maker in makers if maker is not None and maker in among]
    return found


def _loop(nodes: Sequence[ir.Node]) -> Loop:
    """One loop of its nodes in the graph's order."""
    position_ids = next(node.inputs[-1] for node in nodes if is_mark(node, END))
    assert position_ids is not None
    loop = Loop(position_ids=position_ids)
    for node in nodes:
        _sort_in(node, loop)
    return loop


def _sort_in(node: ir.Node, loop: Loop) -> None:
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
