"""Products with the same input -> one product with their weights side by side: queries, keys and values.

The weights are joined by a node; packaging carries it out, so nothing of it is left at run time.
"""

from __future__ import annotations

import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import foldable_values, remove_unread
from qeffbuild.graph.ops import size_of

_NUMBERS = {1: 0, 2: 0, 3: 0, 5: 0}  # of MatMulNBits: the axis along which each input is joined


def absorb_biases(graph: ir.Graph) -> int:
    """Adds a vector to a quantized product inside the operator; how often."""
    foldable, done = foldable_values(graph), 0
    for node in list(graph):
        if node.op_type != "Add" or node.domain != "":
            continue
        for value, bias in (node.inputs, node.inputs[::-1]):
            product = value.producer() if value is not None else None
            if product is None or product.op_type != "MatMulNBits" or bias not in foldable or bias is None:
                continue
            if len(product.inputs) > 5 or len(list(product.outputs[0].uses())) != 1 or bias.shape is None:
                continue
            if list(bias.shape) != [product.attributes["N"].as_int()]:
                continue
            product.resize_inputs(6)
            product.replace_input_with(5, bias)
            replace_value(graph, node.outputs[0], product.outputs[0])
            graph.remove(node, safe=True)
            done += 1
            break
    return done


def pack_attention(graph: ir.Graph) -> int:
    """Gives GroupQueryAttention one packed product in place of three; how often."""
    emit, foldable, done = Emitter(graph, "packed"), foldable_values(graph), 0
    for node in list(graph):
        if node.op_type != "GroupQueryAttention" or node.inputs[1] is None:
            continue
        parts = [value for value in node.inputs[:3] if value is not None]
        packed = _split_from(parts) or _joined(emit, parts, foldable, node)
        if packed is None:
            continue
        node.replace_input_with(0, packed)
        node.replace_input_with(1, None)
        node.replace_input_with(2, None)
        done += 1
    remove_unread(graph)
    return done


def _split_from(parts: list[ir.Value]) -> ir.Value | None:
    """The tensor that was cut into exactly these parts, in order."""
    node = parts[0].producer()
    if node is None or node.op_type != "Split" or list(node.outputs) != parts or node.inputs[0] is None:
        return None
    rank = len(node.inputs[0].shape or ())
    return node.inputs[0] if node.attributes.get_int("axis", 0) in (-1, rank - 1) else None


def _joined(emit: Emitter, parts: list[ir.Value], foldable: set[ir.Value], before: ir.Node) -> ir.Value | None:
    nodes = [value.producer() for value in parts]
    if any(node is None for node in nodes) or any(len(list(value.uses())) != 1 for value in parts):
        return None
    made = [node for node in nodes if node is not None]
    first = made[0]
    if len({(node.op_type, node.domain, node.inputs[0]) for node in made}) != 1:
        return None
    if first.op_type == "MatMulNBits":
        result = _joined_numbers(emit, made)
    elif first.op_type == "MatMul" and all(node.inputs[1] in foldable for node in made):
        weight = _join(emit, [node.inputs[1] for node in made], 1)
        result = None if weight is None else emit("MatMul", first.inputs[0], weight)
    else:
        return None
    if result is not None:
        size = sum(size_of(value, -1) for value in parts)
        result.shape, result.type = ir.Shape([*list(parts[0].shape or ())[:-1], size]), parts[0].type
        emit.place(before)
    return result


def _joined_numbers(emit: Emitter, nodes: list[ir.Node]) -> ir.Value | None:
    first = nodes[0]
    alike = {tuple(sorted((k, a.value) for k, a in n.attributes.items() if k != "N")) for n in nodes}
    given = {tuple(value is not None for value in [*node.inputs, *[None] * 6][:6]) for node in nodes}
    if len(alike) != 1 or len(given) != 1:
        return None
    inputs: list[ir.Value | None] = [first.inputs[0]]
    for place in range(1, len(first.inputs)):
        whole = None
        if first.inputs[place] is not None:
            if place not in _NUMBERS:
                return None
            whole = _join(emit, [node.inputs[place] for node in nodes], _NUMBERS[place])
        inputs.append(whole)
    words = {name: attribute.value for name, attribute in first.attributes.items()}
    words["N"] = sum(node.attributes["N"].as_int() for node in nodes)
    return emit("MatMulNBits", *inputs, domain="com.microsoft", **words)


def _join(emit: Emitter, values: list[ir.Value | None], axis: int) -> ir.Value:
    dtype = values[0].dtype if values[0] is not None else None
    joined = emit("Concat", *values, axis=axis)
    joined.type = ir.TensorType(dtype) if dtype is not None else None
    return joined
