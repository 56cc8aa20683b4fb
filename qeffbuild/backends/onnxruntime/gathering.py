"""The tokens whose logits are asked for are picked as early as can be: behind the last attention nobody reads the rest.

A graph picks them in front of its head, or behind it. What lies between there and the last attention treats each token
by itself, so it may come after the pick: of all other tokens, the last layer then leaves keys and values, and no more.
"""

from __future__ import annotations

import onnx_ir as ir

from qeffbuild.backends.onnxruntime.rows import INDEX
from qeffbuild.backends.onnxruntime.tokenwise import PRODUCTS, is_tokenwise
from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import foldable_values, remove_unread
from qeffbuild.graph.ops import maker

_TOKENS, _WIDTH = 1, 2  # axes of [rows, tokens, width]


def gather_early(graph: ir.Graph) -> int:
    """Moves the pick up to where tokens still read one another; how many products then see picked tokens alone."""
    asked = next((value for value in graph.inputs if value.name == INDEX), None)
    picks = {node: column for node in graph if (column := _column(node, asked)) is not None}
    tokens = _Tokens(graph, picks)
    moved = sum(node.op_type in PRODUCTS for node in tokens.behind)
    if not moved or asked is None or asked.shape is None:
        return 0
    emit, column, count = Emitter(graph, "gathering"), next(iter(picks.values())), asked.shape[_TOKENS]
    picked: dict[ir.Value, ir.Value] = {}
    for node in [each for each in graph if each in tokens.behind]:
        for place, value in enumerate(node.inputs):
            if value is None or value.producer() in tokens.behind or not tokens.are_in(value):
                continue
            if value not in picked:
                picked[value] = emit("GatherND", value, column, batch_dims=1)
                picked[value].shape, picked[value].type = _with(count, value.shape), value.type
            node.replace_input_with(place, picked[value])
        emit.place(node)
        for output in node.outputs:
            output.shape = _with(count, output.shape)
    for pick in picks:
        data = pick.inputs[0]
        if data is not None and data.producer() in tokens.behind:
            replace_value(graph, pick.outputs[0], data)
    remove_unread(graph)
    return moved


def _column(node: ir.Node, asked: ir.Value | None) -> ir.Value | None:
    """[rows, asked, 1] of a node that picks these tokens of x [rows, tokens, width], perhaps spread over the width."""
    column = node.inputs[1] if len(node.inputs) == 2 else None
    if node.op_type == "GatherElements" and node.attributes.get_int("axis", 0) == _TOKENS:
        column = _read_by(maker(column, "Expand"))
    elif node.op_type != "GatherND" or node.attributes.get_int("batch_dims", 0) != 1:
        return None
    source = _read_by(maker(column, "Unsqueeze"))
    return column if source is not None and source is asked else None


def _read_by(node: ir.Node | None) -> ir.Value | None:
    return None if node is None else node.inputs[0]


def _with(count: int | ir.SymbolicDim, shape: ir.Shape | None) -> ir.Shape | None:
    """The shape of a value of all tokens, when it is of so many."""
    return None if shape is None else ir.Shape([shape[0], count, *shape[_TOKENS + 1 :]])


class _Tokens:
    """What treats each token by itself; `behind` are those of it that nobody reads but a pick."""

    def __init__(self, graph: ir.Graph, picks: dict[ir.Node, ir.Value]) -> None:
        self.foldable = foldable_values(graph)
        self.known: dict[ir.Value, bool] = {}
        data = [pick.inputs[0] for pick in picks]
        self.sizes = {value.shape[:_WIDTH] for value in data if value is not None and value.shape is not None}
        self.behind = set[ir.Node]()
        for node in reversed(graph):
            users = [use for output in node.outputs for use in output.uses()]
            if (
                users
                and all(user in self.behind or (user in picks and place == 0) for user, place in users)
                and not any(output.is_graph_output() for output in node.outputs)
                and self._are_apart(node)
            ):
                self.behind.add(node)

    def are_in(self, value: ir.Value) -> bool:
        """Whether it is [rows, tokens, width]: its shape says so, or how it is made."""
        if value not in self.known:
            node = value.producer()
            if value.shape is not None:
                is_of_tokens = len(value.shape) == 3 and value.shape[:_WIDTH] in self.sizes
            else:
                is_of_tokens = node is not None and self._are_apart(node)
            self.known[value] = is_of_tokens
        return self.known[value]

    def _are_apart(self, node: ir.Node) -> bool:
        if not is_tokenwise(node, self.foldable, last=(-1, _WIDTH)):
            return False
        return all(self.are_in(value) for value in node.inputs if value is not None and value not in self.foldable)
