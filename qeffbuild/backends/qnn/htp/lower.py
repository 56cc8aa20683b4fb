"""Neutral graph -> standard ONNX in the forms that Hexagon takes; sizes are still symbols, weights still references."""

from __future__ import annotations

import shutil

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from qeffbuild.executor.work import Work
from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.halves import clip_to_float16
from qeffbuild.graph.ops import lower_portable
from qeffbuild.graph.tied import share_tied_head


def run(work: Work) -> None:
    model = load_graph(work.inputs["graph"] / "graph.onnx")
    lower(model)
    save_graph(model, work.out / "graph.onnx")
    shutil.copyfile(work.inputs["graph"] / "io.json", work.out / "io.json")


def lower(model: ir.Model) -> None:
    InlinePass()(model)
    share_tied_head(model.graph)
    lower_portable(model)
    _bound_integers(model.graph)
    _block_products_in_three_axes(model.graph)
    clip_to_float16(model.graph)
    remove_unread(model.graph)
    if any(node.domain == "com.microsoft" for node in model.graph):
        model.opset_imports["com.microsoft"] = 1


def _bound_integers(graph: ir.Graph) -> None:
    """Clip of integers is not placed; Max and Min are."""
    emit = Emitter(graph, "bound")
    for node in list(graph):
        if node.op_type != "Clip" or node.domain or (x := node.inputs[0]) is None:
            continue
        if x.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            continue
        for op_type, bound in zip(("Max", "Min"), [*node.inputs[1:], None, None], strict=False):
            x = x if bound is None else emit(op_type, x, bound)
        replace_value(graph, node.outputs[0], x)
        emit.place(node)


def _block_products_in_three_axes(graph: ir.Graph) -> None:
    """MatMulNBits is placed where its input has three axes, and exact when it is not told to round that input."""
    emit = Emitter(graph, "block")
    for node in list(graph):
        if node.op_type != "MatMulNBits" or (x := node.inputs[0]) is None:
            continue
        columns, rows = node.attributes["K"].as_int(), node.attributes["N"].as_int()
        bias = node.inputs[5] if len(node.inputs) > 5 else None
        kept = {name: node.attributes[name].value for name in ("K", "N", "bits", "block_size")}
        flat = emit("Reshape", x, np.array([1, -1, columns]))
        weights = [value for value in node.inputs[1:4] if value is not None]
        product = emit("MatMulNBits", flat, *weights, domain="com.microsoft", **kept)
        axes = emit("Shape", x, start=0, end=-1)
        result = emit("Reshape", product, emit("Concat", axes, [rows], axis=0))
        if bias is not None:
            result = emit("Add", result, bias)
        replace_value(graph, node.outputs[0], result)
        emit.place(node)
