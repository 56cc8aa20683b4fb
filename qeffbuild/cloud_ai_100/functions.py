"""A lowered graph -> the same graph with a function per kind of decoder layer, called once for each layer.

What is done with the weights and states of a layer, and with what comes of that until the next layer begins, is the
layer's. Weights and shared values (masks, rotary tables) are inputs of the call; small constants are part of the body.
Layers are calls of one function where every node, attribute and constant is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qeffbuild.cloud_ai_100.layers import shows_layer
from qeffbuild.errors import ModelError
from qeffbuild.graph.files import DOMAIN as SYMBOLIC

DOMAIN = "qeffbuild.layers"
NAME = "DecoderLayer"
LARGEST_CONSTANT = 64  # elements

Region = Sequence[ir.Node]
Form = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """A layer's nodes seen from outside: its inputs in the order of their first use, and its form without names."""

    nodes: Region
    inputs: tuple[ir.Value, ...]
    form: Form


def outline_layers(model: ir.Model, layer_of: Mapping[ir.Node, int]) -> None:
    """Rewrites `model`; `layer_of` has the nodes that show their layer by a weight or a state."""
    bodies = [_body(nodes) for nodes in _regions(model.graph, layer_of)]
    forms = list(dict.fromkeys(body.form for body in bodies))
    outputs = [
        sorted({place for body in bodies if body.form == form for place in _read_outside(body)}) for form in forms
    ]
    names = [NAME if len(forms) == 1 else f"{NAME}_{number}" for number in range(len(forms))]
    for form, name, places in zip(forms, names, outputs, strict=True):
        first = next(body for body in bodies if body.form == form)
        function = _function(name, first, places, model.opset_imports)
        model.functions[function.identifier()] = function
    made: dict[ir.Value, ir.Value] = {}  # what a call gives in the place of what was inside
    for body in bodies:
        kind = forms.index(body.form)
        _call(model.graph, names[kind], body, outputs[kind], layer_of, made)
    model.opset_imports[DOMAIN] = 1
    model.graph.sort()


def _regions(graph: ir.Graph, layer_of: Mapping[ir.Node, int]) -> list[list[ir.Node]]:
    """The nodes of each layer, in order. Behind the last one comes the head, so it ends where the others end."""
    latest: dict[ir.Node, int] = {}
    members: dict[int, list[ir.Node]] = {}
    for node in graph:
        if node.domain == SYMBOLIC:  # encoded weights are written before anybody calls a function
            continue
        makers = [value.producer() for value in node.inputs if value is not None]
        found = [latest[maker] for maker in makers if maker is not None and maker in latest]
        if node in layer_of:
            found = [max([layer_of[node], *found])]  # a weight may be of several layers
        if found:
            latest[node] = max(found)
            members.setdefault(max(found), []).append(node)
    regions = [members[layer] for layer in sorted(members)]
    if not regions:
        raise ModelError("onnx.unsupported", "graph: it has no layers", hint="leave backend.sub_functions out")
    return [*regions[:-1], _without_head(regions, layer_of)]


def _without_head(regions: Sequence[Region], layer_of: Mapping[ir.Node, int]) -> list[ir.Node]:
    """The last layer: as many nodes as the last layer before it that begins alike, else up to its last weight."""
    last = regions[-1]
    for other in reversed(regions[:-1]):
        ops = [node.op_type for node in other]
        if [node.op_type for node in last[: len(other)]] == ops:
            return list(last[: len(other)])
    end = max(place for place, node in enumerate(last) if node in layer_of)
    return list(last[: end + 1])


def _body(nodes: Region) -> _Body:
    place = {value: (at, index) for at, node in enumerate(nodes) for index, value in enumerate(node.outputs)}
    inputs: dict[ir.Value, int] = {}
    form: list[object] = []
    for node in nodes:
        refs: list[object] = []
        for value in node.inputs:
            if value is None or value in place:
                refs.append(value and place[value])
            elif _is_constant(value):
                assert value.const_value is not None
                refs.append((str(value.dtype), value.const_value.numpy().shape, value.const_value.tobytes()))
            else:
                refs.append(inputs.setdefault(value, len(inputs)))
        attributes = tuple(sorted((name, str(attribute.value)) for name, attribute in node.attributes.items()))
        form.append((node.domain, node.op_type, len(node.outputs), attributes, tuple(refs)))
    return _Body(nodes=nodes, inputs=tuple(inputs), form=tuple(form))


def _is_constant(value: ir.Value) -> bool:
    """Shapes, indices and factors; what belongs to a layer by its name is its weight, however small."""
    tensor = value.const_value
    if not value.is_initializer() or tensor is None or isinstance(tensor, ir.ExternalTensor):
        return False
    return tensor.size <= LARGEST_CONSTANT and not shows_layer(value)


def _read_outside(body: _Body) -> Iterator[tuple[int, int]]:
    """Which values of a layer others read, by their places."""
    inside = set(body.nodes)
    for at, node in enumerate(body.nodes):
        for index, value in enumerate(node.outputs):
            if value.is_graph_output() or any(user not in inside for user, _ in value.uses()):
                yield at, index


def _function(name: str, body: _Body, outputs: Sequence[tuple[int, int]], opsets: Mapping[str, int]) -> ir.Function:
    inputs = [ir.Value(name=f"in_{number}") for number in range(len(body.inputs))]
    made: dict[ir.Value, ir.Value] = dict(zip(body.inputs, inputs, strict=True))
    nodes: list[ir.Node] = []
    for at, node in enumerate(body.nodes):
        for value in node.inputs:
            if value is not None and value not in made:
                constant = ir.node("Constant", [], {"value": value.const_value}, name=f"Constant_{at}_{len(nodes)}")
                constant.outputs[0].name = f"constant_{len(nodes)}"
                made[value] = constant.outputs[0]
                nodes.append(constant)
        copy = ir.Node(
            node.domain,
            node.op_type,
            [made[value] if value is not None else None for value in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=f"{node.op_type}_{at}",
        )
        for index, value in enumerate(node.outputs):
            copy.outputs[index].name = f"out_{at}_{index}"
            made[value] = copy.outputs[index]
        nodes.append(copy)
    results = [made[body.nodes[at].outputs[index]] for at, index in outputs]
    used = {node.domain for node in nodes}
    imports = {domain: version for domain, version in opsets.items() if domain in used or domain == ""}
    graph = ir.Graph(inputs, results, nodes=nodes, opset_imports=imports, name=name)
    return ir.Function(DOMAIN, name, graph=graph, attributes=[])


def _call(
    graph: ir.Graph,
    name: str,
    body: _Body,
    outputs: Sequence[tuple[int, int]],
    layer_of: Mapping[ir.Node, int],
    made: dict[ir.Value, ir.Value],
) -> None:
    layer = next(layer_of[node] for node in body.nodes if node in layer_of)
    call = ir.Node(
        DOMAIN,
        name,
        [made.get(value, value) for value in body.inputs],
        num_outputs=len(outputs),
        name=f"layers.{layer}/{name}",
    )
    graph.insert_after(body.nodes[-1], call)
    inside = set(body.nodes)
    for (at, index), new in zip(outputs, call.outputs, strict=True):
        old = body.nodes[at].outputs[index]
        made[old] = new
        new.type, new.shape, old_name = old.type, old.shape, old.name
        for user, place in list(old.uses()):
            if user not in inside:
                user.replace_input_with(place, new)
        if old.is_graph_output():
            graph.outputs[list(graph.outputs).index(old)] = new
        old.name, new.name = f"{old_name}.inside", old_name
    graph.remove(list(reversed(body.nodes)), safe=True)
