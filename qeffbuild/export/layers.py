"""One layer of each kind is traced; the graph of the whole model is made of copies.

A model's layers differ in their weights, but few differ in what they compute. They are grouped by all that a trace can
depend on, a prefix that holds each kind is traced, and its sub-graphs are copied with renamed parameters, states and
outputs. What cannot be proved alike raises NotAlike, and then every layer is traced.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from qeffbuild.export.states import StateSpec

SCOPES = "pkg.torch.onnx.name_scopes"
SCALARS = (int, float, str, bool, type(None))
NUMBERS = frozenset({"layer_idx", "layer_id", "layer_number", "seed", "training"})


class NotAlike(Exception):
    """The layers of this graph cannot be copied; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """`path` of the stack in the model; how many layers it has, how many are traced, and whom each is a copy of.

    `twins` are pairs of traced layers of one kind: that they are traced alike is checked, not assumed.
    """

    path: str
    count: int
    traced: int
    template: tuple[int, ...]
    twins: tuple[tuple[int, int], ...]

    def name_on(self, name: str, old: int, new: int) -> str:
        return name.replace(f".{self.path}.{old}.", f".{self.path}.{new}.")


def plan(model: Any, within: str = "", first: int = 1) -> Layers:
    """Decide how many layers to trace. Raises NotAlike where there is nothing to gain.

    `within` is the path of the part of the model that has them, where there are others. `first` is the first layer that
    others may be copies of: what enters an earlier one is not the output of a layer.
    """
    path, stack = stack_of(model, within)
    kinds = _kinds(stack, model.config.get_text_config(decoder=True))
    count = len(kinds)
    firsts = [kinds.index(kind) for kind in kinds]
    template = [next((other for other in range(first, count) if kinds[other] == kind), 0) for kind in kinds]
    traced = max(max(template) + 1, first)
    if all(first == layer for layer, first in enumerate(firsts[:traced])):
        # Nothing in the prefix happens twice; one more layer shows what depends on a layer's number.
        traced += 1
    if traced >= count:
        raise NotAlike(f"{len(set(kinds))} kinds of layer among {count}")
    twins = [(template[layer], layer) for layer in range(traced) if template[layer] not in (0, layer)]
    return Layers(path=path, count=count, traced=traced, template=tuple(template), twins=tuple(twins))


def number_of(config: Any) -> int | None:
    """How many layers a configuration says that a model has."""
    return getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)


def stack_of(model: nn.Module, within: str) -> tuple[str, nn.ModuleList]:
    """The longest list of modules of few classes is the stack of decoder layers; lists inside of lists are parts."""
    parts = ((name, module) for name, module in model.named_modules() if name.startswith(within))
    lists = [(name, module) for name, module in parts if isinstance(module, nn.ModuleList)]
    inner = {name for outer, _ in lists for name, _ in lists if name.startswith(f"{outer}.")}
    several = [(name, module) for name, module in lists if name not in inner and len(module) > 1]
    stacks = [(name, module) for name, module in several if len({type(m) for m in module}) <= 3]
    if not stacks:
        raise NotAlike("the model has no list of layers")
    return max(stacks, key=lambda item: len(item[1]))


def _kinds(stack: nn.ModuleList, config: Any) -> list[Any]:
    """All that a layer's trace can depend on: classes, shapes, Python scalars, the configuration's per-layer lists."""
    lists = per_layer_lists(config, len(stack))
    return [(_describe(layer), repr([values[i] for values in lists.values()])) for i, layer in enumerate(stack)]


def per_layer_lists(config: Any, count: int) -> dict[str, list[Any]]:
    return {k: list(v) for k, v in sorted(vars(config).items()) if isinstance(v, list | tuple) and len(v) == count}


def _describe(layer: nn.Module) -> tuple[Any, ...]:
    described = []
    for name, module in layer.named_modules():
        tensors = {**module._parameters, **module._buffers}
        shapes = tuple((key, tuple(tensor.shape)) for key, tensor in tensors.items() if tensor is not None)
        scalars = tuple(
            (key, value)
            for key, value in sorted(vars(module).items())
            if isinstance(value, SCALARS) and key not in NUMBERS
        )
        described.append((name, type(module), shapes, scalars))
    return tuple(described)


def cut(model: Any, layers: Layers) -> None:
    """Leave only the layers that are traced, in the modules and in the configuration."""
    owner, _, name = layers.path.rpartition(".")
    stack = model.get_submodule(layers.path)
    model.get_submodule(owner)._modules[name] = nn.ModuleList(list(stack)[: layers.traced])
    config = model.config.get_text_config(decoder=True)
    for key, values in per_layer_lists(config, layers.count).items():
        setattr(config, key, values[: layers.traced])
    config.num_hidden_layers = layers.traced


def all_states(layers: Layers, traced: Sequence[StateSpec]) -> tuple[StateSpec, ...]:
    """The states of every layer, from those of the traced ones; a model that keeps nothing has none."""
    if not traced:
        return ()
    of = [[spec for spec in traced if spec.layer == layer] for layer in range(layers.traced)]
    if not all(of) or sum(map(len, of)) != len(traced):
        raise NotAlike("the states do not belong to one layer each")
    specs = []
    for layer in range(layers.count):
        source = layer if layer < layers.traced else layers.template[layer]
        specs += [spec.on_layer(layer) for spec in of[source]]
    return tuple(specs)


def expand(
    graph: ir.Graph, layers: Layers, traced: Sequence[StateSpec], buffers: Mapping[str, torch.Tensor]
) -> tuple[StateSpec, ...]:
    """Append the layers that were not traced, and return the states of all. `buffers` are the whole model's."""
    specs = all_states(layers, traced)
    segments = _Segments(graph, layers, buffers, {spec.name for spec in traced})
    segments.check(traced)
    values = {value.name: value for value in [*graph.inputs, *graph.outputs] if value.name is not None}
    hidden, nodes = segments.hidden[layers.traced - 1], []
    tail = [use for use in hidden.uses() if segments.layer_of.get(use.node) is None]
    for layer in range(layers.traced, layers.count):
        template = layers.template[layer]
        copies = {segments.hidden[template - 1]: hidden}
        for spec in (spec for spec in traced if spec.layer == template):
            moved = spec.on_layer(layer)
            copies[values[spec.name]] = values[moved.name] = _like(values[spec.name], moved.name)
            values[moved.output] = _like(values[spec.output], moved.output)
            copies[values[spec.output]] = values[moved.output]
        _copy_initializers(graph, segments.nodes[template], layers, template, layer, copies, buffers)
        nodes += [_copy(node, copies) for node in segments.nodes[template]]
        hidden = copies[segments.hidden[template]]
    graph.insert_after(segments.last, nodes)
    for use in tail:
        use.node.replace_input_with(use.idx, hidden)
    _order_states(graph, specs, values)
    return specs


def _order_states(graph: ir.Graph, specs: Sequence[StateSpec], values: Mapping[str, ir.Value]) -> None:
    names = {name for spec in specs for name in (spec.name, spec.output)}
    inputs = [value for value in graph.inputs if value.name not in names]
    outputs = [value for value in graph.outputs if value.name not in names]
    graph.inputs[:] = [*inputs, *(values[spec.name] for spec in specs)]
    graph.outputs[:] = [*outputs, *(values[spec.output] for spec in specs)]


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
    """The nodes of each traced layer, and the one value that each hands on."""

    def __init__(self, graph: ir.Graph, layers: Layers, buffers: Mapping[str, torch.Tensor], states: Set[str]) -> None:
        self.layers = layers
        self.buffers = buffers
        scope = re.compile(rf"(?:.*\.)?{re.escape(layers.path)}\.(\d+)(?:\.|$)")
        self.nodes: list[list[ir.Node]] = [[] for _ in range(layers.traced)]
        self.layer_of: dict[ir.Node, int] = {}
        self.last = next(iter(graph))
        shared = {value for value in graph.inputs if value.name not in states}
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
            self.nodes[layer].append(node)
            self.layer_of[node] = layer
            self.last = node
        if not all(self.nodes):
            raise NotAlike("a traced layer has no nodes")
        templates = {*layers.template[layers.traced :], *(one for one, _ in layers.twins)}
        needed = {layers.traced - 1, *(template - 1 for template in templates), *templates}
        self.hidden = {layer: self._handed_on(layer) for layer in sorted(needed)}

    def _is_common(self, value: ir.Value) -> bool:
        """A buffer of the whole model, such as a rotary table."""
        name = (value.name or "").partition(".")[2]
        return name in self.buffers and not name.startswith(self.layers.path + ".")

    def _handed_on(self, layer: int) -> ir.Value:
        found = []
        for value in (value for node in self.nodes[layer] for value in node.outputs):
            readers = {self.layer_of.get(use.node) for use in value.uses()} - {layer}
            if readers:
                found.append((value, readers))
        if len(found) != 1:
            kinds = ", ".join(value.producer().op_type for value, _ in found)  # type: ignore[union-attr]
            raise NotAlike(f"layer {layer} hands on {len(found)} values: {kinds}")
        value, readers = found[0]
        following = layer + 1 if layer + 1 < self.layers.traced else None
        if readers != {following}:
            raise NotAlike(f"what layer {layer} hands on is read elsewhere than in the next one")
        return value

    def check(self, traced: Sequence[StateSpec]) -> None:
        """A copied layer reads its own states, the layer before it and shared values; twins are traced alike."""
        owner = {spec.name: spec.layer for spec in traced}
        for template in {t for t in self.layers.template[self.layers.traced :]}:
            for value in self._read_by(template):
                if value.is_graph_input() and owner.get(value.name or "", template) != template:
                    raise NotAlike(f"layer {template} reads {value.name}")
        for one, other in self.layers.twins:
            self._check_twins(one, other)

    def _read_by(self, layer: int) -> Iterator[ir.Value]:
        for node in self.nodes[layer]:
            yield from (value for value in node.inputs if value is not None)

    def _check_twins(self, one: int, other: int) -> None:
        if len(self.nodes[one]) != len(self.nodes[other]):
            raise NotAlike(f"layers {one} and {other} are traced into different graphs")
        same: dict[ir.Value | None, ir.Value | None] = {}
        entering = self.hidden[one - 1]
        for left, right in zip(self.nodes[one], self.nodes[other], strict=True):
            if not _same_operation(left, right):
                raise NotAlike(f"layers {one} and {other} differ at a {left.op_type}")
            for a, b in zip(left.inputs, right.inputs, strict=True):
                may_differ = a is entering or self._differs_by_number(a, b, one, other)
                if same.setdefault(a, b if may_differ else a) is not b:
                    raise NotAlike(f"layers {one} and {other} read different values at a {left.op_type}")
            same.update(zip(left.outputs, right.outputs, strict=True))

    def _differs_by_number(self, a: ir.Value | None, b: ir.Value | None, one: int, other: int) -> bool:
        """Whether b is a's counterpart: the same parameter, buffer or state of another layer."""
        if a is None or b is None or a.name is None:
            return False
        if a.is_initializer():
            return b.name == self.layers.name_on("." + a.name, one, other)[1:]
        return a.is_graph_input() and b.name == re.sub(rf"\.{one}$", f".{other}", a.name)


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
