"""Norms: their elementary steps -> one operator, and the sum in front of a norm -> the same operator.

The residual stream is added to and then normalised; SkipSimplifiedLayerNormalization and SkipLayerNormalization do
both in one pass over memory and also give the sum, which the next layer adds to.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import foldable_values, remove_unread
from qeffbuild.graph.norms import root_mean_square

OPSET = 23  # the first that has RMSNormalization; what older operators of ours mean did not change on the way


def fuse_norms(model: ir.Model) -> dict[str, int]:
    """Rewrites what fits; how often each operator was put in."""
    graph = model.graph
    emit, fused = Emitter(graph, "norm"), Counter[str]()
    foldable = foldable_values(graph)
    for node in list(graph):
        norm = root_mean_square(node, foldable)
        if norm is not None:
            made = emit("RMSNormalization", norm.x, norm.weight, axis=-1, epsilon=norm.epsilon, stash_type=1)
            replace_value(graph, node.outputs[0], made)
            emit.place(node)
            fused["RMSNormalization"] += 1
    remove_unread(graph)
    for node in list(graph):
        if (word := _with_sum(graph, emit, node)) is not None:
            fused[word] += 1
    remove_unread(graph)
    if fused:
        model.opset_imports[""] = max(OPSET, model.opset_imports[""])
    fused["RMSNormalization"] -= fused["SkipSimplifiedLayerNormalization"]
    return {word: count for word, count in sorted(fused.items()) if count > 0}


def _with_sum(graph: ir.Graph, emit: Emitter, node: ir.Node) -> str | None:
    """Puts a norm and the sum that it reads into one operator; its name, if they fit."""
    if node.op_type not in ("RMSNormalization", "LayerNormalization") or node.inputs[0] is None:
        return None
    total = node.inputs[0]
    add = total.producer()
    if add is None or add.op_type != "Add" or add.domain != "" or len(node.outputs) != 1:
        return None
    left, right = add.inputs
    # Both have to be whole tensors of tokens: a bias, or anything else that is spread out, is not for this operator.
    shapes = [None if value is None else value.shape for value in (left, right, total)]
    if any(shape is None or len(shape) != 3 for shape in shapes) or not shapes[0] == shapes[1] == shapes[2]:
        return None
    if any(value is not None and value.dtype != ir.DataType.FLOAT for value in (left, right, *node.inputs)):
        return None
    is_plain = node.op_type == "LayerNormalization"
    word = "SkipLayerNormalization" if is_plain else "SkipSimplifiedLayerNormalization"
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    result, _, _, skipped = emit.several(
        word, 4, left, right, *node.inputs[1:], domain="com.microsoft", epsilon=epsilon
    )
    emit.place(add)
    replace_value(graph, node.outputs[0], result)
    if total.is_graph_output() or [user for user, _ in total.uses()] != [node]:
        skipped.shape, skipped.type = total.shape, total.type
        replace_value(graph, total, skipped)
    graph.remove(node, safe=True)
    return word
