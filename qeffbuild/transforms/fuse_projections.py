"""Projections of the same value become one product: queries, keys and values; gate and up.

Their weights are joined by reference, so nothing is stored anew; the result is split again into what each gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from qeffbuild.errors import ModelError
from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.products import Product, by_input, matrix_shape
from qeffbuild.transforms.subject import Subject


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    graph, emit = subject.graph, Emitter(subject.graph, "fused")
    groups = [[product for product in group if _is_projection(product)] for group in by_input(graph)]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise ModelError(
            "onnx.unsupported",
            "transforms.fuse_projections: no two projections of this model read the same value",
            hint="leave it out",
        )
    for group in groups:
        _fuse(graph, emit, group)
    graph.sort()  # a joined weight is needed before some of its parts were
    remove_unread(graph)
    subject.report |= {"products": sum(map(len, groups)), "fused": len(groups)}


def _is_projection(product: Product) -> bool:
    """A plain product with a matrix; those that choose experts or words stay as they are."""
    is_plain = product.node.op_type == "MatMul" and not product.is_router and not product.makes_logits
    return is_plain and matrix_shape(product.weight) is not None


def _fuse(graph: ir.Graph, emit: Emitter, group: list[Product]) -> None:
    outputs = [product.node.outputs[0] for product in group]
    sizes = [(matrix_shape(product.weight) or (0, 0))[1] for product in group]
    weight = emit("Concat", *(product.weight for product in group), axis=1)
    whole = emit("MatMul", group[0].x, weight)
    if (shape := outputs[0].shape) is not None:
        whole.shape, whole.type = ir.Shape([*list(shape)[:-1], sum(sizes)]), outputs[0].type
    parts = emit.several("Split", len(group), whole, sizes, axis=-1)
    emit.place(group[0].node)
    for out, part in zip(outputs, parts, strict=True):
        replace_value(graph, out, part)
