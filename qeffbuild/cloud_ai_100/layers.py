"""A lowered graph -> which layer each node belongs to, and the node names that the compiler's partitions go by."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

from qeffbuild.cloud_ai_100.names import IMAGE
from qeffbuild.graph.fold import foldable_values
from qeffbuild.signature import IoSignature

# A weight's name says its layer: model.layers.3.mlp.gate_proj.weight, transformer.h.3.ln_1.bias, ...blocks.3.norm...
_WEIGHT = re.compile(r"(?:^|[./])(?:layers|layer|h|blocks)\.(\d+)(?:[./]|\Z)")
_NODE = re.compile(r"layers\.(\d+)/")

# The compiler looks inside a called function, but not into these (of its own), nor into large ones.
_WHOLE = frozenset({"CustomRMSNorm", "CastToUInt4"})
_SMALL_FUNCTION = 100


def name_nodes(graph: ir.Graph, signature: IoSignature) -> dict[ir.Node, int]:
    """Names each node by its kind, and by its layer where it shows one (`layers.3/MatMul_41`); gives those layers."""
    shown = {}
    layer_of_state = {
        name: state.layer
        for state in signature.states
        if state.kind not in ("buffer", IMAGE)
        for name in (state.name, state.output)
    }
    for number, node in enumerate(graph):
        layer = _layer_of(node, layer_of_state)
        node.name = f"{node.op_type}_{number}" if layer is None else f"layers.{layer}/{node.op_type}_{number}"
        if layer is not None:
            shown[node] = layer
    return shown


def partition_nodes(model: ir.Model) -> Iterator[tuple[str, int | None]]:
    """(name, layer) of the nodes that a partition lists, in order: those that survive constant folding."""
    constant = foldable_values(model.graph)
    for node in model.graph:
        if node.outputs and node.outputs[0] in constant:
            continue
        named = _NODE.match(node.name or "")
        layer = int(named[1]) if named else None
        function = model.functions.get(node.op_identifier())
        if function is None or node.op_type in _WHOLE or len(function) >= _SMALL_FUNCTION:
            yield node.name or "", layer
            continue
        for inner in function:
            yield f"{node.name}/{inner.name}", layer


def shows_layer(value: ir.Value) -> bool:
    """Whether a weight's name says which layer it is of."""
    return _WEIGHT.search(value.name or "") is not None


def _layer_of(node: ir.Node, layer_of_state: dict[str, int]) -> int | None:
    """A node shows its layer by a state that it reads or writes, or by the name of its weight."""
    if node.op_type == "Shape":  # any layer may ask how long the context is
        return None
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name in layer_of_state:
            return layer_of_state[value.name]
    for value in node.inputs:
        if value is not None and value.is_initializer() and (said := _WEIGHT.search(value.name or "")):
            return int(said[1])
    return None
