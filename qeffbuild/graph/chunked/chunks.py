"""Marked loops over tokens, where their algebra is known -> loops over chunks of tokens, each chunk at once.

A chunk has as many tokens as suit its recurrence, or as there are. Tokens are put in order before, a row's padding
behind its tokens, and back afterwards: it does not matter where padding is, nor whether a length is a multiple of
anything. A run of one token needs no loop at all and does just that turn: `If` chooses.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from qeffbuild.graph.chunked.body import ChunkBody
from qeffbuild.graph.emit import Emitter, detach


@dataclass(frozen=True, slots=True)
class Order:
    """Where tokens go: `source` [chunks x tokens x B] tells which token comes, `back` [B, S] where it went."""

    source: ir.Value
    back: ir.Value
    position: ir.Value  # [chunks, tokens, B]
    extent: ir.Value  # (chunks, tokens, B)


class Chunks:
    """The loops of one graph; `inner` are the values that the graph's inputs reach."""

    def __init__(self, graph: ir.Graph, inner: Collection[ir.Value]) -> None:
        self.graph, self.inner = graph, inner
        self.orders: dict[tuple[ir.Value, int], Order] = {}
        self.single: dict[ir.Value, ir.Value] = {}

    def write(self, loop: Any, number: int, emit: Emitter, turn: ir.Graph) -> tuple[ir.Value, ...]:
        """States that the loop leaves and what it collects; `turn` does it for one token. Raises NotChunked."""
        name = f"loop.{number}.chunk"
        body = ChunkBody(self.graph, loop, name, self.inner)
        results = body.walk()
        for value, mark in zip(results, [*loop.states, *loop.ends], strict=True):
            value.type = mark.outputs[0].type
            value.shape = mark.outputs[0].shape if mark in loop.states else _unsized(mark)
        inner = _needed(body.emit.waiting(), results)
        chunk = ir.Graph([*body.states, body.position, *body.turns], results, nodes=inner, name=name)
        order = self._order(loop.position_ids, body.tokens, emit)
        many = self._over_chunks(loop, chunk, order, f"loop.{number}.many")
        return emit.several("If", len(results), self.single[loop.position_ids], then_branch=turn, else_branch=many)

    def write_one(self, loop: Any, number: int, emit: Emitter) -> tuple[list[ir.Value], int]:
        """The same where a run is one chunk, padding behind its tokens, and how many tokens that may have: no loop."""
        body = ChunkBody(self.graph, loop, f"loop.{number}.chunk", self.inner, may_loop=False)
        made = body.walk()
        nodes = _needed(body.emit.waiting(), made)
        given = dict(zip(body.states, (mark.inputs[0] for mark in loop.states), strict=True))
        given[body.position] = emit("Transpose", loop.position_ids, perm=[1, 0])
        for value, mark in zip(body.turns, loop.turns, strict=True):
            given[value] = emit("Transpose", mark.inputs[0], perm=[1, 0, *range(2, len(mark.outputs[0].shape))])
        for value, outer in given.items():
            value.replace_all_uses_with(outer)
        for node in nodes:
            emit.add(node)
        states, ends = made[: len(loop.states)], made[len(loop.states) :]
        turned = [
            emit("Transpose", value, perm=[1, 0, *range(2, len(mark.inputs[0].shape))])
            for value, mark in zip(ends, loop.ends, strict=True)
        ]
        return [given.get(value, value) for value in states] + turned, body.tokens

    def _over_chunks(self, loop: Any, chunk: ir.Graph, order: Order, name: str) -> ir.Graph:
        emit = Emitter(self.graph, name)
        wholes = [_gathered(emit, mark.inputs[0], order) for mark in loop.turns]
        states = [mark.inputs[0] for mark in loop.states]
        count = len(states) + len(loop.ends)
        made = emit.several(
            "Scan", count, *states, order.position, *wholes, body=chunk, num_scan_inputs=1 + len(wholes)
        )
        outs = list(made[: len(states)])
        for value, mark in zip(made[len(states) :], loop.ends, strict=True):
            rest = list(mark.outputs[0].shape or mark.inputs[0].shape)[2:]
            outs.append(emit("Gather", emit("Reshape", value, [-1, *rest]), order.back, axis=0))
        for value, mark in zip(outs, [*loop.states, *loop.ends], strict=True):
            value.type = mark.outputs[0].type
        return ir.Graph([], outs, nodes=emit.waiting(), name=name)

    def _order(self, position_ids: ir.Value, tokens: int, emit: Emitter) -> Order:
        """How tokens lie in chunks of so many; the same for every loop that has as many."""
        if position_ids not in self.single:
            self.single[position_ids] = emit("Equal", emit("Squeeze", emit("Shape", position_ids, start=1, end=2)), 1)
        key = (position_ids, tokens)
        if key not in self.orders:
            self.orders[key] = _ordered(emit, position_ids, tokens)
        return self.orders[key]


def _ordered(emit: Emitter, position_ids: ir.Value, tokens: int) -> Order:
    rows, length = emit("Shape", position_ids, start=0, end=1), emit("Shape", position_ids, start=1, end=2)
    width = emit("Max", emit("Min", length, [tokens]), [1])
    chunks = emit("Div", emit("Sub", emit("Add", length, width), 1), width)
    extent = emit("Concat", chunks, width, rows, axis=0)
    is_token = emit("GreaterOrEqual", position_ids, 0)
    ones = emit("Cast", is_token, to=ir.DataType.INT64)
    before = emit("Sub", emit("CumSum", ones, 1), 1)
    behind = emit("Add", emit("CumSum", emit("Sub", 1, ones), 1), emit("Sub", emit("ReduceSum", ones, [1]), 1))
    place = emit("Where", is_token, before, behind)
    row = emit("Unsqueeze", emit("Range", 0, emit("Squeeze", rows), 1), [1])
    column = emit("Range", 0, emit("Squeeze", length), 1)
    back = emit("Add", emit("Mul", place, rows), row)
    flat = emit("Reshape", back, [-1])
    origin = emit("Reshape", emit("Add", emit("Mul", row, length), column), [-1])
    total = emit("ReduceProd", extent, keepdims=1)
    source = emit("ScatterElements", emit("Expand", 0, total), flat, origin, axis=0)
    position = emit("ScatterElements", emit("Expand", -1, total), flat, emit("Reshape", position_ids, [-1]), axis=0)
    return Order(source, back, emit("Reshape", position, extent), extent)


def _gathered(emit: Emitter, whole: ir.Value, order: Order) -> ir.Value:
    """whole [B, S, ...] -> [chunks, tokens, B, ...]"""
    rest = emit("Shape", whole, start=2)
    flat = emit("Reshape", whole, emit("Concat", [-1], rest, axis=0))
    return emit("Reshape", emit("Gather", flat, order.source, axis=0), emit("Concat", order.extent, rest, axis=0))


def _unsized(mark: ir.Node) -> ir.Shape:
    """Of what is collected [tokens, B, ...]: a body has to tell how many axes its results have."""
    shape = mark.inputs[0].shape if mark.inputs[0] is not None else None
    assert shape is not None
    return ir.Shape([None, None, *list(shape)[2:]])


def _needed(nodes: list[ir.Node], results: list[ir.Value]) -> list[ir.Node]:
    """Those that the results come from, in order."""
    wanted = {value.producer() for value in results}
    kept = []
    for node in reversed(nodes):
        if node in wanted:
            kept.append(node)
            wanted |= {value.producer() for value in node.inputs if value is not None}
        else:
            detach(node)
    return kept[::-1]
