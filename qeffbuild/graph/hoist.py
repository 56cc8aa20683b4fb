"""What needs no state moves out of a marked loop over tokens, and is done for all tokens at once.

Projections are most of a recurrent layer's work and need none: op(Token(x), weight) is Token(op(x, weight)) for every
operation that does the same to each token, and Tokens(op(y, weight)) is op(Tokens(y), weight). `loops` knows the marks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from qeffbuild.graph.files import DOMAIN
from qeffbuild.graph.shapes import fill_shapes

BEGIN, END = frozenset({"Token", "StateIn"}), frozenset({"Tokens", "StateOut"})
UNARY = frozenset({"Abs", "Cast", "Cos", "Erf", "Exp", "Gelu", "HardSwish", "Identity", "Log", "Neg", "Reciprocal"}) | {
    "Relu", "Sigmoid", "Sin", "Softplus", "Sqrt", "Tanh",
}  # fmt: skip
QUANTIZED = frozenset({"MatMulNBits", "MatMulIntegerToFloat"})  # products with weights, row by row
BINARY = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Where"})


def hoist(graph: ir.Graph) -> None:
    """Of every loop. What has left is made for all tokens at once, where anybody may look at it."""
    if not any(is_mark(node, BEGIN | END) for node in graph):
        return
    fill_shapes(graph)
    _Hoist(graph).run()
    fill_shapes(graph)


def is_mark(node: ir.Node | None, kinds: frozenset[str] | set[str]) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type in kinds


class _Hoist:
    """Moves what needs no state before the loop, and what no state needs behind it."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.inside: set[ir.Value] = set()

    def run(self) -> None:
        for node in list(self.graph):
            if is_mark(node, BEGIN):
                self.inside.update(node.outputs)
            elif not is_mark(node, END) and any(value in self.inside for value in node.inputs):
                self.inside.update(node.outputs)
                self._before(node)
        for node in reversed(list(self.graph)):
            if any(value in self.inside for value in node.outputs):
                self._behind(node)

    def _before(self, node: ir.Node) -> None:
        """op(Token(x), weight) is Token(op(x, weight))."""
        entering = [value for value in node.inputs if value in self.inside]
        marks = [value.producer() for value in entering if value is not None]
        if not all(is_mark(mark, {"Token"}) for mark in marks) or not self._acts_on_tokens(node, {*entering}):
            return
        inputs = [value.producer().inputs[0] if value in entering else value for value in node.inputs]  # type: ignore[union-attr]
        whole = _again(self.graph, node, inputs, node)
        for old, new in zip(node.outputs, whole.outputs, strict=True):
            mark = ir.node("Token", [new], domain=DOMAIN)
            self.graph.insert_before(node, mark)
            mark.outputs[0].shape, mark.outputs[0].type = old.shape, old.type
            old.replace_all_uses_with(mark.outputs[0])
            self.inside.update(mark.outputs)
        self.graph.remove(node, safe=True)

    def _behind(self, node: ir.Node) -> None:
        """Tokens(op(y, weight)) is op(Tokens(y), weight)."""
        if len(node.outputs) != 1 or is_mark(node, BEGIN | END) or node.outputs[0].is_graph_output():
            return
        result = node.outputs[0]
        ends = [use.node for use in result.uses()]
        entering = {value for value in node.inputs if value in self.inside}
        if not ends or not all(is_mark(end, {"Tokens"}) for end in ends) or not self._acts_on_tokens(node, entering):
            return
        end = ends[0]
        inputs = [self._collected(value, end) if value in entering else value for value in node.inputs]
        whole = _again(self.graph, node, inputs, end)
        for other in ends:
            other.outputs[0].replace_all_uses_with(whole.outputs[0], replace_graph_outputs=True)
            self.graph.remove(other, safe=True)
        self.graph.remove(node, safe=True)

    def _collected(self, value: ir.Value | None, end: ir.Node) -> ir.Value:
        assert value is not None
        mark = value.producer()
        if mark is not None and is_mark(mark, {"Token"}) and mark.inputs[0] is not None:
            return mark.inputs[0]
        for use in value.uses():
            if is_mark(use.node, {"Tokens"}) and use.node.inputs[1] is end.inputs[1]:
                # It has to come before what reads it.
                self.graph.remove(use.node)
                self.graph.insert_before(end, use.node)
                return use.node.outputs[0]
        made = ir.node("Tokens", [value, end.inputs[1]], domain=DOMAIN)
        made.outputs[0].type = value.type
        self.graph.insert_before(end, made)
        return made.outputs[0]

    def _acts_on_tokens(self, node: ir.Node, entering: Collection[ir.Value | None]) -> bool:
        """Whether the operation does to each token the same, whatever the others are; tokens are axis 1."""
        if node.op_type in QUANTIZED:
            x = node.inputs[0]
            return x is not None and set(entering) == {x} and _rank(x) == 3 and _size(x, 1) == 1
        if node.domain != "" or any(_rank(value) is None for value in node.inputs if value is not None):
            return False
        rank = max((_rank(value) or 0 for value in entering), default=0)
        if any(_rank(value) != rank or _size(value, 1) != 1 for value in entering if value is not None) or rank < 2:
            return False
        others = [value for value in node.inputs if value not in entering and value is not None]
        if node.op_type in UNARY:
            return True
        if node.op_type in BINARY:
            return all(_spreads(value, rank) for value in others)
        if node.op_type == "MatMul":
            return rank == 3 and node.inputs[0] in entering and all(_rank(value) == 2 for value in others)
        if node.op_type == "Split":
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
            return axis % rank != 1 and node.inputs[0] in entering
        return False


def _again(graph: ir.Graph, node: ir.Node, inputs: Iterable[ir.Value | None], before: ir.Node) -> ir.Node:
    """The same operation on other inputs, with as many tokens as they have."""
    made = ir.Node(
        node.domain, node.op_type, list(inputs), list(node.attributes.values()), num_outputs=len(node.outputs)
    )
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.type = old.type
        if old.shape is not None:
            new.shape = ir.Shape([size if axis != 1 else None for axis, size in enumerate(old.shape)])
    graph.insert_before(before, made)
    return made


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _size(value: ir.Value, axis: int) -> int | None:
    assert value.shape is not None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def _spreads(value: ir.Value, rank: int) -> bool:
    """Whether every token meets the same numbers of a value from outside the loop."""
    own = _rank(value) or 0
    return own < rank or (own == rank and _size(value, 1) == 1)
