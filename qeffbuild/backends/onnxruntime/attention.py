"""Attention by GroupQueryAttention where one token per row is decoded, in standard operators everywhere else.

GroupQueryAttention reads only the slots that are filled and writes the cache itself. It cannot take several tokens of
several rows behind a past, nor leave a row out. So each layer's attention becomes an If: a run of one token per row
takes the fused branch, a run of more (prefill) the portable one. A row that sits out (position < 0) writes back what
its slot 0 holds, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.ops import ATTENTION, SCATTER, Slots, attention, given, readers, scatter, size_of, slots, symbolic

_VECTOR = 8  # the kernel wants head widths that are a multiple of this


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's attention and the two writes that it reads."""

    node: ir.Node
    writes: tuple[ir.Node, ir.Node]

    @property
    def kv_heads(self) -> int:
        return size_of(given(self.writes[0])[0], 1)


@dataclass(frozen=True, slots=True)
class Run:
    """What every layer wants to know of a run: worked out once, outside the branches."""

    is_single: ir.Value
    where: Slots
    lengths: ir.Value
    longest: ir.Value


def lower_decoding(graph: ir.Graph) -> dict[str, str]:
    """Rewrites what fits; for each attention node that does not, the reason."""
    emit, runs, left = Emitter(graph, "decoding"), dict[tuple[ir.Value, int], Run](), dict[str, str]()
    for number, node in enumerate(symbolic(graph, ATTENTION)):
        layer = _layer(graph, node)
        if isinstance(layer, str):
            left[node.name or str(number)] = layer
            continue
        key = (given(layer.writes[0])[1], layer.kv_heads)
        if key not in runs:
            runs[key] = _run(emit, *key)
        _rewrite(graph, emit, layer, runs[key], number)
    return left


def _layer(graph: ir.Graph, node: ir.Node) -> Layer | str:
    """The layer that ends in an attention node, or why GroupQueryAttention would not be the same."""
    query, *caches, _ = given(node)
    if query.dtype != ir.DataType.FLOAT:
        return f"it computes in {query.dtype}"
    if any(size_of(value, 3) != size_of(query, 3) for value in caches):
        return "keys and values differ in width"
    if size_of(query, 3) % _VECTOR:
        return f"its heads are {size_of(query, 3)} wide, not a multiple of {_VECTOR}"
    key, value = (cache.producer() for cache in caches)
    if key is None or value is None or {key.op_type, value.op_type} != {SCATTER} or key is value:
        return "it reads more than what its own layer wrote"
    for write in (key, value):
        cache, positions, _ = given(write)
        if positions is not key.inputs[1] or cache not in graph.inputs or readers(cache) != [write]:
            return "its cache is shared"
        if readers(write.outputs[0]) != [node]:
            return "its cache is read elsewhere"
    return Layer(node, (key, value))


def _run(emit: Emitter, position_ids: ir.Value, kv_heads: int) -> Run:
    width = emit("Squeeze", emit("Shape", position_ids, start=1, end=2))
    last = emit("Max", emit("ReduceMax", position_ids, [1], keepdims=0), 0)
    lengths = emit("Cast", last, to=ir.DataType.INT32)  # GroupQueryAttention counts one less than there are
    longest = emit("Add", emit("ReduceMax", lengths, keepdims=0), np.array(1, np.int32))
    return Run(emit("Equal", width, 1), slots(emit, position_ids, [kv_heads]), lengths, longest)


def _rewrite(graph: ir.Graph, emit: Emitter, layer: Layer, run: Run, number: int) -> None:
    olds = [layer.node.outputs[0], *(write.outputs[0] for write in layer.writes)]
    results = emit.several(
        "If",
        3,
        run.is_single,
        then_branch=_branch(f"decode.{number}", olds, lambda inner: _fused(inner, layer, run)),
        else_branch=_branch(f"prefill.{number}", olds, lambda inner: _portable(inner, layer, run)),
    )
    emit.place(layer.node)
    for old, new in zip(olds, results, strict=True):
        replace_value(graph, old, new)
    graph.remove([layer.node, *layer.writes], safe=True)


def _branch(name: str, olds: list[ir.Value], write: Callable[[Emitter], list[ir.Value]]) -> ir.Graph:
    graph = ir.Graph([], [], nodes=[], name=name)
    emit = Emitter(graph, name)
    results = write(emit)
    for old, new in zip(olds, results, strict=True):
        new.type, new.shape = old.type, old.shape
    graph.extend(emit.waiting())
    graph.outputs.extend(results)
    return graph


def _portable(emit: Emitter, layer: Layer, run: Run) -> list[ir.Value]:
    query, _, _, mask = given(layer.node)
    key, value = (scatter(emit, given(write)[0], given(write)[2], run.where) for write in layer.writes)
    for new, write in zip((key, value), layer.writes, strict=True):
        new.type, new.shape = write.outputs[0].type, write.outputs[0].shape
    return [attention(emit, query, key, value, mask, layer.node), key, value]


def _fused(emit: Emitter, layer: Layer, run: Run) -> list[ir.Value]:
    query, _, _, mask = given(layer.node)
    heads, width = size_of(query, 1), size_of(query, 3)
    flat = [_flat(emit, query, heads * width)]
    for write in layer.writes:
        cache, _, new = given(write)
        kept = emit("Slice", cache, [0], [1], [2])
        flat.append(_flat(emit, emit("Where", run.where.idle, kept, new), layer.kv_heads * width))
    seen = emit("Slice", mask, [0], emit("Unsqueeze", emit("Cast", run.longest, to=ir.DataType.INT64), [0]), [3])
    # The mask goes in as numbers that are added: it may be any mask, sliding windows included.
    bias = emit("Where", seen, np.array(0, np.float32), np.array(np.finfo(np.float32).min, np.float32))
    caches = [given(write)[0] for write in layer.writes]
    result, key, value = emit.several(
        "GroupQueryAttention", 3, *flat, *caches, run.lengths, run.longest, None, None, None, bias,
        domain="com.microsoft", num_heads=heads, kv_num_heads=layer.kv_heads,
        scale=layer.node.attributes["scale"].as_float(), softcap=layer.node.attributes["softcap"].as_float(),
    )  # fmt: skip
    return [emit("Reshape", result, [0, 0, heads, width]), key, value]


def _flat(emit: Emitter, x: ir.Value, width: int) -> ir.Value:
    """[B, heads, S, D] -> [B, S, heads * D]."""
    return emit("Reshape", emit("Transpose", x, perm=[0, 2, 1, 3]), [0, 0, width])
