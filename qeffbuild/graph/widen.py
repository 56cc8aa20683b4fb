"""A graph that computes in float16 or bfloat16 -> the same graph in float32, for who has no operators for the former.

Weights are read as they are stored, and rounded where the narrow graph rounds them: a cast behind each makes float32 of
it, which whoever writes weights out carries out once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.decode import DECODE
from qeffbuild.graph.fold import foldable_values
from qeffbuild.signature import IoSignature, State, Tensor

WIDE = ir.DataType.FLOAT
NARROW = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_NAMES = ("float16", "bfloat16")
Said = TypeVar("Said", Tensor, State)
# Whose results are numbers that they were given.
_MOVES = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "ScatterElements",
    "ScatterND", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where", "CtxScatter", "Token",
    "Tokens", "StateIn", "StateOut",
})  # fmt: skip


def widen(model: ir.Model, *, rounding: bool = False) -> int:
    """Rewrites `model`; how many values were narrow. `rounding` rounds each to its old dtype after it is computed."""
    weights = foldable_values(model.graph)
    return sum(_widen(graph, weights, rounding=rounding) for graph in list(model.graphs()))


def widened(signature: IoSignature) -> IoSignature:
    """The signature of the graph that `widen` leaves."""
    return replace(
        signature,
        inputs=tuple(map(_wide, signature.inputs)),
        outputs=tuple(map(_wide, signature.outputs)),
        states=tuple(map(_wide, signature.states)),
        held=tuple(map(_wide, signature.held)),
    )


def _wide(said: Said) -> Said:
    return replace(said, dtype="float32") if said.dtype in _NAMES else said


def _widen(graph: ir.Graph, weights: set[ir.Value], *, rounding: bool) -> int:
    count = sum(is_narrow(value) for value in graph.inputs)
    for value in [*graph.inputs]:
        if is_narrow(value) and value.const_value is None:
            value.type = ir.TensorType(WIDE)
    for value in list(graph.initializers.values()):
        if is_narrow(value):
            count += 1
            _widen_initializer(graph, value)
    for node in list(graph):
        count += _widen_node(graph, node, weights, rounding=rounding)
    return count


def is_narrow(value: ir.Value) -> bool:
    return value.dtype in NARROW


def _widen_initializer(graph: ir.Graph, value: ir.Value) -> None:
    """A weight behind a reference stays one, with a cast behind it; a constant in the graph is written anew."""
    tensor = value.const_value
    if isinstance(tensor, ir.ExternalTensor):
        cast = _cast(value, WIDE)
        _put_behind(value, cast)
        graph.insert_before(graph[0], cast)
    elif tensor is not None:
        value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
        value.type = ir.TensorType(WIDE)


def _widen_node(graph: ir.Graph, node: ir.Node, weights: set[ir.Value], *, rounding: bool) -> int:
    for name in ("value", "dtype"):
        _widen_attribute(node, name)
    if node.op_type == "Cast" and node.domain == "":
        # What is decoded stays in its blocks, unless somebody wants to know what rounding does.
        is_stored = node.outputs[0] in weights and not _is_decoded(node.inputs[0])
        return _widen_cast(graph, node, is_kept=rounding or is_stored)
    narrow = [value for value in node.outputs if is_narrow(value)]
    for value in narrow:
        dtype = value.dtype
        assert dtype is not None
        value.type = ir.TensorType(WIDE)
        if rounding and node.op_type not in (*_MOVES, "Constant") and value not in weights:
            _round(graph, node, value, dtype)
    return len(narrow)


def _is_decoded(value: ir.Value | None) -> bool:
    maker = None if value is None else value.producer()
    return maker is not None and maker.op_type == DECODE


def _widen_attribute(node: ir.Node, name: str) -> None:
    """A constant's content, or the dtype of what a node makes of nothing."""
    said = node.attributes.get(name)
    if said is None:
        return
    if said.type == ir.AttributeType.TENSOR and said.as_tensor().dtype in NARROW:
        node.attributes[name] = ir.AttrTensor(name, ir.tensor(said.as_tensor().numpy().astype(np.float32)))
    elif said.type == ir.AttributeType.INT and name == "dtype" and ir.DataType(said.as_int()) in NARROW:
        node.attributes[name] = ir.AttrInt64(name, int(WIDE))


def _widen_cast(graph: ir.Graph, node: ir.Node, *, is_kept: bool) -> int:
    """One to a narrow dtype is left out, or kept as a rounding with a cast behind it; an idle one goes."""
    dtype, result = ir.DataType(node.attributes["to"].as_int()), node.outputs[0]
    source = node.inputs[0]
    assert source is not None
    if dtype in NARROW and is_kept:
        result.type = ir.TensorType(dtype)
        cast = _cast(result, WIDE)
        _put_behind(result, cast)
        graph.insert_after(node, cast)
        return 1
    if dtype in NARROW:
        node.attributes["to"] = ir.AttrInt64("to", int(WIDE))
        result.type = ir.TensorType(WIDE)
    if dtype in (*NARROW, WIDE) and source.dtype == WIDE and not result.is_graph_output():
        result.replace_all_uses_with(source)
        graph.remove(node, safe=True)
    return int(dtype in NARROW)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> None:
    narrow = _cast(value, dtype)
    wide = _cast(narrow.outputs[0], WIDE)
    _put_behind(value, wide, through=narrow)
    graph.insert_after(node, [narrow, wide])


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    made = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}.to.{dtype.name.lower()}")
    made.outputs[0].name = made.name
    made.outputs[0].shape, made.outputs[0].type = value.shape, ir.TensorType(dtype)
    return made


def _put_behind(value: ir.Value, cast: ir.Node, through: ir.Node | None = None) -> None:
    """Everyone who read `value` reads what `cast` makes of it, and so does who reads the graph's output."""
    first, made = through or cast, cast.outputs[0]
    if value.is_graph_output():
        made.name, value.name = value.name, f"{value.name}.exact"
    value.replace_all_uses_with(made, replace_graph_outputs=True)
    first.replace_input_with(0, value)
