"""Tables that tokens are looked up in -> integers in blocks; a run makes floats of the rows that it reads."""

from __future__ import annotations

import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.files import DOMAIN
from qeffbuild.graph.fold import foldable_values, remove_unread, sources
from qeffbuild.graph.probe import Ancestry
from qeffbuild.graph.rounded import ROUNDED

_BLOCK = 32


def round_tables(graph: ir.Graph, bits: int) -> dict[str, str]:
    """What became of each table, by its name; one that a product reads as well stays as it is."""
    emit, foldable, ancestry = Emitter(graph, "table"), foldable_values(graph), Ancestry(graph)
    said: dict[str, str] = {}
    for node in [node for node in graph if node.op_type == "Gather" and node.domain == ""]:
        table, indices = node.inputs[:2]
        if table is None or indices is None or table not in foldable or indices in foldable or not sources(table):
            continue
        if "input_ids" not in {value.name for value in ancestry.inputs_of(indices) or ()}:
            continue
        name = sources(table)[0].name or table.name or ""
        reason = _why_not(node, table)
        said[name] = reason or f"{bits} bits in blocks of {_BLOCK}"
        if not reason:
            _look_up(emit, node, table, indices, bits)
    remove_unread(graph)
    return said


def _why_not(node: ir.Node, table: ir.Value) -> str:
    shape = table.shape.numpy() if table.shape is not None and table.shape.is_static() else ()
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if len(shape) != 2 or axis != 0 or shape[1] % 2 or table.dtype != ir.DataType.FLOAT:
        return "floats: it is no plain table"
    if any(user.op_type != "Gather" for user, _ in table.uses()):
        return "floats: a product reads it, too"
    return ""


def _look_up(emit: Emitter, node: ir.Node, table: ir.Value, indices: ir.Value, bits: int) -> None:
    numbers, scales = emit.several(ROUNDED, 2, table, domain=DOMAIN, bits=bits, block_size=_BLOCK)
    rows, columns = table.shape.numpy()  # type: ignore[union-attr]
    for value, width, dtype in (
        (numbers, columns * bits // 8, ir.DataType.UINT8),
        (scales, -(-columns // _BLOCK), ir.DataType.FLOAT),
    ):
        value.shape, value.type = ir.Shape([rows, width]), ir.TensorType(dtype)
    found = emit(
        "GatherBlockQuantized", numbers, indices, scales, domain="com.microsoft", bits=bits, block_size=_BLOCK,
        gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    replace_value(node.graph, node.outputs[0], found)  # type: ignore[arg-type]
    emit.place(node)
