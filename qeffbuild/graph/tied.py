"""A head that reads the embedding table transposed -> one that reads it as it is, so that one copy serves both."""

from __future__ import annotations

import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import foldable_values, identity, remove_unread


def share_tied_head(graph: ir.Graph) -> list[str]:
    """Turns `x @ transpose(table)` into Gemm(x, table, transB=1) where the table is also looked up; their names.

    Gemm takes matrices, so the rows of x are laid out one after another; that moves no data.
    """
    foldable = foldable_values(graph)
    tables = {
        identity(node.inputs[0]): node.inputs[0]
        for node in graph
        if node.op_type == "Gather" and node.inputs[0] is not None and node.inputs[0] in foldable
    }
    if not tables:
        return []
    emit, shared = Emitter(graph, "tied"), []
    for node in list(graph):
        turned = node.inputs[1] if node.op_type == "MatMul" and node.domain == "" else None
        source = _transposed(turned) if turned is not None and turned in foldable else None
        if source is None or (table := tables.get(identity(source))) is None:
            continue
        x = node.inputs[0]
        if x is None or x.shape is None or table.shape is None:
            continue
        product = _product(emit, x, len(x.shape), table, table.shape)
        replace_value(graph, node.outputs[0], product)
        emit.place(node)
        shared.append(table.name or "")
    remove_unread(graph)
    return shared


def _product(emit: Emitter, x: ir.Value, rank: int, table: ir.Value, shape: ir.Shape) -> ir.Value:
    vocabulary, width = shape.numpy()
    rows = emit("Reshape", x, [-1, width])
    flat = emit("Gemm", rows, table, transB=1)
    leading = emit("Shape", x, start=0, end=rank - 1)
    return emit("Reshape", flat, emit("Concat", leading, [vocabulary], axis=0))


def _transposed(value: ir.Value) -> ir.Value | None:
    """What `value` is the transpose of, if it is one."""
    node = value.producer()
    if node is None or node.op_type != "Transpose" or node.attributes["perm"].as_ints() != (1, 0):
        return None
    return node.inputs[0]
