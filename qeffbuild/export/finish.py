"""A graph that is complete -> the same bytes for the same model, in every process, folder and hash seed."""

from __future__ import annotations

import hashlib

import onnx_ir as ir

from qeffbuild.export.ops import DOMAIN, VERSION


def finish(model: ir.Model) -> None:
    """Drop traces of the making (scopes, stack traces, names by chance) and number what is left in its order."""
    graph = model.graph
    _share_equal_tables(graph)
    _drop_unused_initializers(graph)
    model.producer_name, model.producer_version, model.doc_string = "qeffbuild", None, None
    graph.name, graph.doc_string = "decoder", None
    model.metadata_props.clear()
    graph.metadata_props.clear()
    named = {*graph.inputs, *graph.outputs, *graph.initializers.values()}
    for value in named:
        value.metadata_props.clear()
        value.doc_string = None
    for number, node in enumerate(graph):
        node.metadata_props.clear()
        node.doc_string = None
        node.name = f"{node.op_type}_{number}"
        for index, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if value not in named:
                value.name = node.name if index == 0 else f"{node.name}_{index}"
    model.opset_imports[DOMAIN] = VERSION


def _share_equal_tables(graph: ir.Graph) -> None:
    """Equal buffers (each layer's own rotary table) are stored once."""
    kept: dict[tuple[str, str, bytes], ir.Value] = {}
    for name, value in sorted(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor):
            continue
        # A plain copy, because what the trace holds is a view of the model's own memory.
        array = tensor.numpy()
        key = (str(tensor.dtype), str(array.shape), hashlib.sha256(array.tobytes()).digest())
        if key in kept:
            value.replace_all_uses_with(kept[key])
            del graph.initializers[name]
            continue
        kept[key] = value
        value.const_value = ir.tensor(array.copy(), name=name)


def _drop_unused_initializers(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
