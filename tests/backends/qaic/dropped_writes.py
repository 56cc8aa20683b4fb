"""A graph of this form, changed so that ONNX Runtime drops the writes that the device drops."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from qeffbuild.cloud_ai_100.cache_ops import DOMAIN
from qeffbuild.graph.files import load_graph, save_graph


def drop_writes(graph: Path, out: Path) -> None:
    """The graph in one file as the other has to be; its weights stay where they are."""
    model = load_graph(graph)
    patch(model)
    save_graph(model, out)


def patch(model: ir.Model) -> None:
    """ONNX Runtime refuses a write to nowhere. Here it lands in a slot behind the cache, which is cut off again."""
    for function in model.functions.values():
        if function.domain == DOMAIN and function.name.startswith("CtxScatter"):
            _drop_writes_to_nowhere(function)


def _drop_writes_to_nowhere(function: ir.Function) -> None:
    """A slot more, to which all writes beyond the cache go."""
    data, positions = function.inputs[0], next(value for value in function.inputs if value.name == "position_ids")
    write = next(node for node in function if node.op_type == "ScatterND")
    size = ir.node("Shape", [data], {"start": 2, "end": 3})
    slots = ir.node("Min", [positions, size.outputs[0]])
    first, second, axis = (ir.node("Constant", [], {"value_ints": [number]}) for number in (0, 1, 2))
    bounds = [first.outputs[0], second.outputs[0], axis.outputs[0]]
    more = ir.node("Slice", [data, *bounds])
    longer = ir.node("Concat", [data, more.outputs[0]], {"axis": 2})
    cut = ir.node("Slice", [write.outputs[0], first.outputs[0], size.outputs[0], axis.outputs[0]])
    for user, place in list(positions.uses()):
        if user.op_type == "Unsqueeze":
            user.replace_input_with(place, slots.outputs[0])
    write.replace_input_with(0, longer.outputs[0])
    function.outputs[0] = cut.outputs[0]
    function.insert_before(function[0], [size, slots, first, second, axis, more, longer])
    function.insert_after(write, [cut])
