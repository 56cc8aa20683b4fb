"""A graph with symbolic sizes and the sizes of one phase -> the graph whose every shape is a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx_ir as ir

from qeffbuild.errors import ModelError
from qeffbuild.graph.fold import remove_unread

# Index tables and masks are worked out here; weights are larger, or stay as they are when they are not.
_FOLDED_INPUT = 1 << 16  # numbers
_FOLDED_OUTPUT = 1 << 22


def fix_shapes(model: ir.Model, sizes: Mapping[str, int]) -> None:
    """Rewrites `model` for these sizes; what followed from sizes alone is a constant afterwards.

    A graph with an open size is taken by the compiler without a word, and nothing comes of it: so none is let through.
    """
    from onnxscript import optimizer

    graph = model.graph
    for value in (*graph.inputs, *graph.outputs):
        value.shape = ir.Shape([_fixed(value, axis, sizes) for axis in value.shape or ()])
    kept = {*graph.inputs, *graph.outputs, *graph.initializers.values()}
    for node in graph.all_nodes():
        for output in node.outputs:
            if output not in kept:
                output.shape = None
    with _products_known(graph):
        optimizer.optimize_ir(model, input_size_limit=_FOLDED_INPUT, output_size_limit=_FOLDED_OUTPUT)
    remove_unread(graph)
    for node in graph.all_nodes():
        for output in node.outputs:
            if output.shape is None or any(not isinstance(axis, int) for axis in output.shape):
                raise ModelError(
                    "onnx.unsupported",
                    f"{node.op_type} ({node.name}): the size of what it makes follows from its input's content",
                    hint="a compiled graph has fixed sizes: this model needs another backend",
                )


def _fixed(value: ir.Value, axis: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int:
    if isinstance(axis, int):
        return axis
    if axis.value is None or axis.value not in sizes:
        raise ModelError("onnx.unsupported", f"{value.name}: the size of axis {axis.value} is not known")
    return sizes[axis.value]


@contextmanager
def _products_known(graph: ir.Graph) -> Iterator[None]:
    """Shape inference knows no operator of com.microsoft: for its time, block products are plain ones."""
    weights: dict[ir.Value, tuple[list[ir.Value | None], dict[str, ir.Attr]]] = {}
    for node in list(graph):
        if (node.domain, node.op_type) != ("com.microsoft", "MatMulNBits"):
            continue
        columns, rows = node.attributes["K"].as_int(), node.attributes["N"].as_int()
        weight = ir.Value(
            name=f"{node.name}.weight", shape=ir.Shape([columns, rows]), type=ir.TensorType(ir.DataType.FLOAT)
        )
        weights[weight] = (list(node.inputs[1:]), dict(node.attributes))
        graph.inputs.append(weight)
        plain = ir.node("MatMul", [node.inputs[0], weight], name=node.name)
        _take_over(graph, node, plain)
    yield
    for node in list(graph):
        stood_for = node.inputs[1] if node.op_type == "MatMul" else None
        if stood_for is None or stood_for not in weights:
            continue
        inputs, attributes = weights[stood_for]
        block = ir.node("MatMulNBits", [node.inputs[0], *inputs], name=node.name, domain="com.microsoft")
        block.attributes.update(attributes)
        _take_over(graph, node, block)
    for weight, (inputs, _) in weights.items():
        graph.inputs.remove(weight)
        for value in inputs:  # nobody seemed to read them
            if value is not None and value.const_value is not None and value.name not in graph.initializers:
                graph.initializers.add(value)


def _take_over(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    before, after = old.outputs[0], new.outputs[0]
    after.name, after.shape, after.type = before.name, before.shape, before.type
    before.name = f"{before.name}.replaced"
    graph.insert_before(old, new)
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    graph.remove(old, safe=True)
