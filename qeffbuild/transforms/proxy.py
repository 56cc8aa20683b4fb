"""The model without its table of words and without its head: embeddings go in, hidden states come out.

The input `inputs_embeds` [batch_size, seq_len, width] takes the place of `input_ids`, as rows of the table; the output
`hidden_states` [batch_size, num_logits, width] is what the head would have read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from qeffbuild.errors import ModelError
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.fold import foldable_values, remove_unread
from qeffbuild.graph.ops import size_of
from qeffbuild.graph.products import head_of, matrix_shape
from qeffbuild.signature import Tensor
from qeffbuild.transforms.subject import Subject

EMBEDS, HIDDEN = "inputs_embeds", "hidden_states"


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    remove_unread(subject.graph)
    width = _take_embeddings(subject.graph)
    hidden = _leave_out_head(subject.graph)
    remove_unread(subject.graph)
    signature = subject.signature
    rows = Tensor(name=EMBEDS, dtype="float32", axes=("batch_size", "seq_len", width))
    others = [tensor for tensor in signature.inputs if tensor.name != "input_ids"]
    out = Tensor(name=HIDDEN, dtype="float32", axes=("batch_size", "num_logits", hidden))
    subject.signature = replace(signature, inputs=(rows, *others), outputs=(out,))
    subject.report |= {"width": width}


def _take_embeddings(graph: ir.Graph) -> int:
    """Puts the new input where rows of the table were read; how wide it is."""
    inputs = {value.name: value for value in graph.inputs}
    ids, positions = inputs["input_ids"], inputs["position_ids"]
    constant = foldable_values(graph)
    read: list[ir.Node] = []
    for node, place in list(ids.uses()):
        if node.op_type == "Shape":  # positions have the same
            node.replace_input_with(place, positions)
        elif node.op_type == "Gather" and node.inputs[0] in constant:
            read.append(node)
        else:
            raise _unfit(f"a {node.op_type} reads the words as well as the table of embeddings does")
    if len(read) != 1:
        raise _unfit(f"words are looked up in {len(read)} tables")
    table, rows = read[0].inputs[0], read[0].outputs[0]
    assert table is not None
    width = size_of(table, 1)
    given = ir.Value(
        name=EMBEDS, shape=ir.Shape(("batch_size", "seq_len", width)), type=ir.TensorType(ir.DataType.FLOAT)
    )
    emit, dtype = Emitter(graph, "proxy"), rows.dtype or ir.DataType.FLOAT
    taken = given if dtype == ir.DataType.FLOAT else emit("Cast", given, to=dtype)
    taken.shape, taken.type = given.shape, ir.TensorType(dtype)
    rows.replace_all_uses_with(taken)
    emit.place(graph[0])
    graph.inputs[:] = [given, *(value for value in graph.inputs if value is not ids)]
    return width


def _leave_out_head(graph: ir.Graph) -> int:
    """Puts out what the head reads; how wide it is."""
    head = head_of(graph, "logits")
    hidden, weight = (None, None) if head is None else head.inputs[:2]
    sizes = None if weight is None else matrix_shape(weight)
    if head is None or hidden is None or sizes is None or weight not in foldable_values(graph):
        raise _unfit("no product with a weight makes its logits")
    width = sizes[1] if head.attributes.get_int("transB", 0) else sizes[0]
    if (hidden.dtype or ir.DataType.FLOAT) != ir.DataType.FLOAT:
        emit = Emitter(graph, "proxy")
        hidden = emit("Cast", hidden, to=ir.DataType.FLOAT)
        graph.insert_before(head, emit.waiting())
    hidden.name, hidden.shape = HIDDEN, ir.Shape(("batch_size", "num_logits", width))
    hidden.type = ir.TensorType(ir.DataType.FLOAT)
    outputs = list(graph.outputs)
    graph.outputs[:] = [hidden, *(value for value in outputs if value.name != "logits")]
    return width


def _unfit(found: str) -> ModelError:
    return ModelError("onnx.unsupported", f"transforms.proxy: {found}", hint="leave transforms.proxy out")
