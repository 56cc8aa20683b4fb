"""Nodes that change nothing in the end: tokens flattened to a matrix and spread again, casts to the type that is."""

from __future__ import annotations

import onnx_ir as ir

from qeffbuild.backends.onnxruntime.tokenwise import is_tokenwise
from qeffbuild.graph.fold import foldable_values, remove_unread
from qeffbuild.graph.ops import maker


def drop_flattening(graph: ir.Graph) -> int:
    """Tokens [rows, tokens, width] that are a matrix in between, for nodes that do not care, stay as they are."""
    foldable, done = foldable_values(graph), 0
    for node in list(graph):
        source, flat = node.inputs[0] if node.inputs else None, node.outputs[0]
        if node.op_type != "Reshape" or source is None or not _is_flattened(source, flat):
            continue
        region = _region(flat, source, foldable)
        if region is None:
            continue
        between, ends = region
        flat.replace_all_uses_with(source)
        for value in (output for each in between for output in each.outputs):
            if value.shape is not None and source.shape is not None:
                value.shape = ir.Shape([*source.shape[:-1], value.shape[-1]])
        for made in ends:
            end = made.inputs[0]
            assert end is not None
            end.shape = made.outputs[0].shape
            made.outputs[0].replace_all_uses_with(end)
        done += 1
    remove_unread(graph)
    return done


def _is_flattened(source: ir.Value, flat: ir.Value) -> bool:
    if source.shape is None or flat.shape is None or len(source.shape) < 3 or len(flat.shape) != 2:
        return False
    return isinstance(flat.shape[-1], int) and flat.shape[-1] == source.shape[-1]


def _region(flat: ir.Value, source: ir.Value, foldable: set[ir.Value]) -> tuple[list[ir.Node], list[ir.Node]] | None:
    """The nodes between a flattening and the reshapes that undo it; None if anything else reads what is flat."""
    between, ends, values = dict[ir.Node, None](), list[ir.Node](), [flat]
    while values:
        value = values.pop()
        if value.is_graph_output():
            return None
        for node, _ in value.uses():
            if node.op_type == "Reshape" and _is_spread(node.outputs[0], source):
                ends.append(node)
            elif is_tokenwise(node, foldable):
                if node not in between:
                    between[node] = None
                    values += node.outputs
            else:
                return None
    inside = {flat, *(output for node in between for output in node.outputs)}
    read = {value for node in between for value in node.inputs if value is not None and value not in foldable}
    return (list(between), ends) if ends and read <= inside else None


def _is_spread(value: ir.Value, source: ir.Value) -> bool:
    """Whether it has the tokens where they were; a graph's output has a name that nothing else can have."""
    if value.shape is None or source.shape is None or value.is_graph_output():
        return False
    return len(value.shape) == len(source.shape) and value.shape[:-1] == source.shape[:-1]


def drop_detours(graph: ir.Graph) -> int:
    """Reshapes to the shape that is or was there before another one, and casts to the type that is; how many."""
    done = 0
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if source is None or node.outputs[0].is_graph_output():
            continue
        if node.op_type in ("Cast", "CastLike"):
            before = source if source.dtype is not None and source.dtype == node.outputs[0].dtype else None
        elif node.op_type == "Reshape":
            before = _before(source, node.outputs[0].shape)
        else:
            continue
        if before is not None:
            node.outputs[0].replace_all_uses_with(before)
            done += 1
    remove_unread(graph)
    return done


def _before(value: ir.Value, shape: ir.Shape | None) -> ir.Value | None:
    """The value, or what it was reshaped from, that has the shape already."""
    inner = maker(value, "Reshape")
    source = None if inner is None else inner.inputs[0]
    for each in (value, source):
        if each is not None and each.shape is not None and each.shape == shape and _is_known(each.shape):
            return each
    return None


def _is_known(shape: ir.Shape) -> bool:
    return not any(isinstance(size, ir.SymbolicDim) and size.value is None for size in shape)
