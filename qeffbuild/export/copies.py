"""A graph of the layers that were traced -> the graph of all: copies with renamed parameters, states and results.

A layer's nodes are known by the scopes that the trace left in them. What no copy could rely on raises NotAlike.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from qeffbuild.export.layers import Layers, NotAlike, named_on

SCOPES = "pkg.torch.onnx.name_scopes"


def expand(graph: ir.Graph, layers: Layers, own: Mapping[str, int], buffers: Mapping[str, torch.Tensor]) -> None:
    """Append the layers that were not traced, and what goes into the graph and comes out of it for them.

    `own` are the names of what goes in and comes out for one layer only, and of which. `buffers` are the whole model's.
    """
    segments = _Segments(graph, layers, own, buffers)
    if not own and not any(segments.nodes):
        return  # another graph has these layers
    segments.check()
    hidden, nodes = segments.hidden[layers.traced - 1], []
    last, ends = hidden, [] if hidden is None else _read_behind(hidden, segments)
    doors = [(values, _by_layer(values, own)) for values in (graph.inputs, graph.outputs)]
    for layer in range(layers.traced, layers.count - layers.unread):
        template = layers.template[layer]
        entering, leaving = segments.hidden[template - 1], segments.hidden[template]
        copies = {} if entering is None or hidden is None else {entering: hidden}
        for values, of_layers in doors:
            moved = of_layers.get(template, [])
            copies.update({value: _like(value, named_on(value.name or "", layer)) for value in moved})
            values.extend(copies[value] for value in moved)
        _copy_initializers(graph, segments.nodes[template], layers, template, layer, copies, buffers)
        nodes += [_copy(node, copies) for node in segments.nodes[template]]
        hidden = None if leaving is None else copies[leaving]
    graph.insert_after(segments.last, nodes)
    if last is not None and hidden is not None:
        for use in ends:
            use.node.replace_input_with(use.idx, hidden)
        _let_out(graph, last, hidden)


def order(graph: ir.Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """What goes in and comes out, as a signature says."""
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        by_name = {value.name: value for value in values}
        values[:] = [by_name[name] for name in names]


def _by_layer(values: Iterable[ir.Value], own: Mapping[str, int]) -> dict[int, list[ir.Value]]:
    found: dict[int, list[ir.Value]] = {}
    for value in values:
        if (name := value.name or "") in own:
            found.setdefault(own[name], []).append(value)
    return found


def _read_behind(hidden: ir.Value, segments: _Segments) -> list[Any]:
    return [use for use in hidden.uses() if segments.layer_of.get(use.node) is None]


def _let_out(graph: ir.Graph, before: ir.Value, after: ir.Value) -> None:
    """Where the last traced layer's result left the graph, the last layer's does."""
    for place, value in enumerate(list(graph.outputs)):
        if value is before:
            graph.outputs[place] = after
            before.name, after.name = None, before.name


def _like(value: ir.Value, name: str | None) -> ir.Value:
    return ir.Value(name=name, shape=value.shape, type=value.type)


def _copy_initializers(
    graph: ir.Graph,
    nodes: Sequence[ir.Node],
    layers: Layers,
    template: int,
    layer: int,
    copies: dict[ir.Value, ir.Value],
    buffers: Mapping[str, torch.Tensor],
) -> None:
    for value in (value for node in nodes for value in node.inputs):
        if value is None or value in copies or not value.is_initializer():
            continue
        assert value.name is not None
        name = layers.name_on("." + value.name, template, layer)[1:]
        if name == value.name:
            continue
        copies[value] = moved = _like(value, name)
        moved.const_value = value.const_value
        buffer = buffers.get(name.partition(".")[2])
        if buffer is not None:
            moved.const_value = ir.tensor(buffer.numpy(), name=name)
        graph.initializers[name] = moved


def _copy(node: ir.Node, copies: dict[ir.Value, ir.Value]) -> ir.Node:
    inputs = [value if value is None else copies.get(value, value) for value in node.inputs]
    outputs = [copies[value] if value in copies else _like(value, None) for value in node.outputs]
    copies.update(zip(node.outputs, outputs, strict=True))
    return ir.Node(node.domain, node.op_type, inputs, node.attributes, outputs=outputs)


class _Segments:
    """The nodes of each traced layer, and the value that each hands on, or None where none does."""

    def __init__(
        self, graph: ir.Graph, layers: Layers, own: Mapping[str, int], buffers: Mapping[str, torch.Tensor]
    ) -> None:
        self.layers = layers
        self.own = own
        self.buffers = buffers
        self.outputs = list(graph.outputs)
        scope = re.compile(rf"(?:.*\.)?{re.escape(layers.path)}\.(\d+)(?:\.|$)")
        self.nodes: list[list[ir.Node]] = [[] for _ in range(layers.traced)]
        self.layer_of: dict[ir.Node, int] = {}
        self.last = next(iter(graph))
        shared = {value for value in graph.inputs if value.name not in own}
        shared.update(value for value in graph.initializers.values() if self._is_common(value))
        for node in graph:
            layer = _layer(node, scope)
            # Constants, masks and sizes that a layer is the first to need are nobody's own.
            # (What depends on a parameter is not shared: the embedding is the first layer's own input.)
            of_input = node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0].is_graph_input()
            if of_input or all(value is None or value in shared for value in node.inputs):
                shared.update(node.outputs)
                layer = None
            if layer is None:
                continue
            if layer >= layers.traced:
                raise NotAlike(f"something reads layer {layer}, counted from the beginning")
            self.nodes[layer].append(node)
            self.layer_of[node] = layer
            self.last = node
        self.templates = {*self._copied(), *(one for one, _ in layers.twins)}
        self.hidden: dict[int, ir.Value | None] = {}

    def check(self) -> None:
        """A copied layer reads its own tensors, the layer before it and shared values; twins are traced alike."""
        if not all(self.nodes):
            raise NotAlike("a traced layer has no nodes")
        needed = {self.layers.traced - 1, *(template - 1 for template in self.templates), *self.templates}
        self.hidden = {layer: self._handed_on(layer) for layer in sorted(needed)}
        if len({value is None for value in self.hidden.values()}) > 1:
            raise NotAlike("not every layer hands something on")
        for template in self._copied():
            for value in (value for node in self.nodes[template] for value in node.inputs if value is not None):
                if value.is_graph_input() and self.own.get(value.name or "", template) != template:
                    raise NotAlike(f"layer {template} reads {value.name}")
        for value in self.outputs:
            layer = self.own.get(value.name or "")
            if layer is not None and self.layer_of.get(value.producer()) != layer:  # type: ignore[arg-type]
                raise NotAlike(f"{value.name} is not made in layer {layer}")
        for one, other in self.layers.twins:
            self._check_twins(one, other)

    def _copied(self) -> set[int]:
        """The layers that others are copies of."""
        return set(self.layers.template[self.layers.traced : self.layers.count - self.layers.unread])

    def _is_common(self, value: ir.Value) -> bool:
        """A buffer of the whole model, such as a rotary table."""
        name = (value.name or "").partition(".")[2]
        return name in self.buffers and not name.startswith(self.layers.path + ".")

    def _handed_on(self, layer: int) -> ir.Value | None:
        found = list(self._read_elsewhere(layer))
        if not found:
            return None
        if len(found) > 1:
            kinds = ", ".join(value.producer().op_type for value, _ in found)  # type: ignore[union-attr]
            raise NotAlike(f"layer {layer} hands on {len(found)} values: {kinds}")
        value, readers = found[0]
        following = layer + 1 if layer + 1 < self.layers.traced else None
        if readers != {following}:
            raise NotAlike(f"what layer {layer} hands on is read elsewhere than in the next one")
        return value

    def _read_elsewhere(self, layer: int) -> Iterator[tuple[ir.Value, set[int | None]]]:
        """Each value of a layer that is read behind it, and by whom; but what all layers read is nobody's."""
        behind: set[int | None] = set(range(layer + 1, self.layers.traced))
        may_be_common = layer < min(self.templates) and len(behind) > 1
        for value in (value for node in self.nodes[layer] for value in node.outputs):
            readers = {self.layer_of.get(use.node) for use in value.uses()} - {layer}
            if value.is_graph_output() and value.name not in self.own:
                readers.add(None)
            if readers and not (may_be_common and readers == behind):
                yield value, readers

    def _check_twins(self, one: int, other: int) -> None:
        if len(self.nodes[one]) != len(self.nodes[other]):
            raise NotAlike(f"layers {one} and {other} are traced into different graphs")
        same: dict[ir.Value | None, ir.Value | None] = {}
        entering = self.hidden[one - 1]
        for left, right in zip(self.nodes[one], self.nodes[other], strict=True):
            if not _same_operation(left, right):
                raise NotAlike(f"layers {one} and {other} differ at a {left.op_type}")
            for a, b in zip(left.inputs, right.inputs, strict=True):
                may_differ = a is not None and (a is entering or self._differs_by_number(a, b, one, other))
                if same.setdefault(a, b if may_differ else a) is not b:
                    raise NotAlike(f"layers {one} and {other} read different values at a {left.op_type}")
            same.update(zip(left.outputs, right.outputs, strict=True))

    def _differs_by_number(self, a: ir.Value, b: ir.Value | None, one: int, other: int) -> bool:
        """Whether b is a's counterpart: the same parameter, buffer or state of another layer."""
        if b is None or a.name is None:
            return False
        if a.is_initializer():
            return b.name == self.layers.name_on("." + a.name, one, other)[1:]
        return a.is_graph_input() and self.own.get(a.name) == one and b.name == named_on(a.name, other)


def _layer(node: ir.Node, scope: re.Pattern[str]) -> int | None:
    scopes = node.metadata_props.get(SCOPES)
    for name in reversed(ast.literal_eval(scopes) if scopes else []):
        found = scope.match(name)
        if found:
            return int(found.group(1))
    return None


def _same_operation(left: ir.Node, right: ir.Node) -> bool:
    if (left.domain, left.op_type, len(left.inputs)) != (right.domain, right.op_type, len(right.inputs)):
        return False
    if len(left.outputs) != len(right.outputs) or left.attributes.keys() != right.attributes.keys():
        return False
    return all(str(left.attributes[name].value) == str(right.attributes[name].value) for name in left.attributes)
