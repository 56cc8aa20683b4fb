"""The symbolic operators of neutral graphs, what they promise, and a portable form of each in standard ONNX.

CtxScatter(cache, position_ids, updates) -> cache
    cache [B, ..., C, D], updates [B, ..., S, D] with the same axes between (heads, or none), position_ids int [B, S].
    Token s of row b is written to slot position_ids[b, s]; where that is negative, nothing is written. Two tokens of a
    row never share a slot; a slot beyond C is an error.
Attention(q, k, v, mask; scale, softcap) -> [B, S, N, Dv]
    q [B, N, S, D], k [B, K, C, D], v [B, K, C, Dv] with N a multiple of K (grouped heads), mask bool [B, 1 or N, S, C].
    softmax(where(mask, cap(scale q kT), lowest)) v, cap(x) = softcap tanh(x / softcap) unless softcap is 0.
    A row whose mask is all false gives some finite value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.errors import ModelError
from qeffbuild.graph.blocked import Attention, Heads, blocks_of, in_blocks
from qeffbuild.graph.decode import BLOCKS, DECODE
from qeffbuild.graph.emit import Emitter, Input, replace_value
from qeffbuild.graph.files import DOMAIN
from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.loops import lower_loops
from qeffbuild.graph.rounded import ROUNDED

SCATTER = "CtxScatter"
ATTENTION = "Attention"
VERSION = 1


def symbolic(graph: ir.Graph, op_type: str) -> list[ir.Node]:
    """The symbolic nodes of one kind, in order."""
    return [node for node in graph if node.domain == DOMAIN and node.op_type == op_type]


def maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes the value, if it is of this kind."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def lower_portable(model: ir.Model) -> ir.Model:
    """Writes every symbolic operator out in standard ONNX. Exact for ragged batches, chunked prefill and idle rows."""
    graph = model.graph
    lower_loops(graph)
    emit = Emitter(graph, "portable")
    writes: dict[tuple[ir.Value, str], Slots] = {}
    for node in symbolic(graph, SCATTER):
        cache, position_ids, updates = given(node)
        between = _between(cache)
        key = (position_ids, str(between))
        if key not in writes:  # every layer writes to the same slots, so where they are is worked out once
            writes[key] = slots(emit, position_ids, between)
        replace_value(graph, node.outputs[0], scatter(emit, cache, updates, writes[key]))
        emit.place(node)
    for node in symbolic(graph, ATTENTION):
        q, k, v, mask = given(node)
        replace_value(graph, node.outputs[0], attention(emit, q, k, v, mask, node))
        emit.place(node)
    remove_unread(graph)
    _check_nothing_symbolic(model)
    return model


@dataclass(frozen=True, slots=True)
class Slots:
    """Where the tokens of a run go. Indices are [B, ..., S, axes before D]; `idle` marks rows without any token."""

    target: ir.Value
    source: ir.Value
    idle: ir.Value


def slots(emit: Emitter, position_ids: ir.Value, between: list[int]) -> Slots:
    """`between` are the sizes between batch and context: [heads], or nothing.

    ONNX has no "do not write", wraps negative indices and refuses those beyond the end. So a padded token repeats its
    row's last token, slot and value alike: writing the same twice changes nothing. A row without a token writes back
    what its slot 0 holds.
    """
    rank = 2 + len(between)
    is_padding = emit("Less", position_ids, 0)
    last = emit("ArgMax", position_ids, axis=1, keepdims=1)
    batch, length = emit("Shape", position_ids, start=0, end=1), emit("Shape", position_ids, start=1, end=2)
    column = emit("Unsqueeze", emit("Range", 0, emit("Squeeze", length), 1), [0])
    source = emit("Where", is_padding, last, column)
    target = emit("Max", emit("GatherElements", position_ids, source, axis=1), 0)
    counts: list[Input] = [batch, *([between] if between else []), length, [1]]
    shape = emit("Concat", *counts, axis=0)

    # Index of axis i: counts along axis i of [B, ..., S, 1] and is the same along the others.
    row = emit("Unsqueeze", emit("Range", 0, emit("Squeeze", batch), 1), list(range(1, rank + 1)))
    heads: list[Input] = [
        np.arange(size).reshape(size, *[1] * (len(between) - i + 1)) for i, size in enumerate(between)
    ]
    leading = [emit("Expand", index, shape) for index in [row, *heads]]
    inner = [*range(1, 1 + len(between)), rank]
    index_of = [emit("Expand", emit("Unsqueeze", token, inner), shape) for token in (target, source)]
    idle = emit("Less", emit("ReduceMax", position_ids, [1], keepdims=1), 0)
    return Slots(
        target=emit("Concat", *leading, index_of[0], axis=-1),
        source=emit("Concat", *leading, index_of[1], axis=-1),
        idle=emit("Unsqueeze", idle, list(range(2, rank + 1))),
    )


def scatter(emit: Emitter, cache: ir.Value, updates: ir.Value, where: Slots) -> ir.Value:
    """The cache with the updates in their slots. Every read of the old cache comes before the write: it may alias."""
    new = emit("GatherND", updates, where.source)
    if updates.dtype != cache.dtype:
        new = emit("CastLike", new, cache)
    kept = emit("GatherND", cache, where.target)
    return emit("ScatterND", cache, where.target, emit("Where", where.idle, kept, new))


def attention(emit: Emitter, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value, node: ir.Node) -> ir.Value:
    """The portable form of an attention node, in blocks where a pass has asked for them."""
    work = Attention(
        q=q,
        k=k,
        v=v,
        mask=mask,
        sizes=sizes_of(q, k, v),
        mask_has_heads=mask.shape is not None and mask.shape[1] != 1,
        scale=node.attributes["scale"].as_float(),
        softcap=node.attributes["softcap"].as_float(),
        dtype=(q.dtype or ir.DataType.FLOAT).numpy(),
    )
    blocks = blocks_of(node)
    return _attend(emit, work) if blocks is None else in_blocks(emit, work, blocks, _attend)


def sizes_of(q: ir.Value, k: ir.Value, v: ir.Value) -> Heads:
    return Heads(heads=size_of(q, 1), kv_heads=size_of(k, 1), width=size_of(q, 3), value_width=size_of(v, 3))


def _attend(emit: Emitter, work: Attention) -> ir.Value:
    """Scores of a whole group in one product, a finite floor under the mask, softmax, product with the values."""
    q, k, dtype = work.q, work.k, work.dtype
    heads, kv_heads = work.sizes.heads, work.sizes.kv_heads
    grouped = emit("Mul", q, np.array(work.scale, dtype))
    if heads != kv_heads:  # the heads of a group read the same keys: stack them as if they were tokens
        grouped = emit("Reshape", grouped, [0, kv_heads, -1, work.sizes.width])
    scores = emit("MatMul", grouped, emit("Transpose", k, perm=[0, 1, 3, 2]))
    if heads != kv_heads:
        shape = emit("Concat", [0, heads], emit("Shape", q, start=2, end=3), [-1], axis=0)
        scores = emit("Reshape", scores, shape)
    if work.softcap:
        cap = np.array(work.softcap, dtype)
        scores = emit("Mul", emit("Tanh", emit("Div", scores, cap)), cap)
    # A finite floor: a row that sees nothing becomes a mean, where -inf would make it NaN.
    scores = emit("Where", work.mask, scores, work.lowest)
    shares = work.narrowed(emit, emit("Softmax", work.widened(emit, scores), axis=-1))
    if heads != kv_heads:
        context = emit("Shape", k, start=2, end=3)
        shares = emit("Reshape", shares, emit("Concat", [0, kv_heads, -1], context, axis=0))
    result = emit("MatMul", shares, work.v)
    if heads != kv_heads:
        shape = emit("Concat", [0, heads], emit("Shape", q, start=2, end=3), [work.sizes.value_width], axis=0)
        result = emit("Reshape", result, shape)
    return emit("Transpose", result, perm=[0, 2, 1, 3])


def given(node: ir.Node) -> list[ir.Value]:
    """A node's inputs, none of which may be left out."""
    return [value for value in node.inputs if value is not None]


def _between(cache: ir.Value) -> list[int]:
    if cache.shape is None or len(cache.shape) < 3:
        raise ModelError("onnx.unsupported", f"cache {cache.name} has no known shape", hint="export the model again")
    return [size_of(cache, axis) for axis in range(1, len(cache.shape) - 2)]


def readers(value: ir.Value) -> list[ir.Node]:
    """Who looks at a value's content; a shape is known without it."""
    return [node for node, _ in value.uses() if node.op_type != "Shape"]


def size_of(value: ir.Value, axis: int) -> int:
    """An axis that has to be a number."""
    size = None if value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        raise ModelError(
            "onnx.unsupported", f"axis {axis} of {value.name} is {size}, not a number", hint="export the model again"
        )
    return size


def _check_nothing_symbolic(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        # Those three go where weights are written.
        if node.domain == DOMAIN and node.op_type not in (DECODE, BLOCKS, ROUNDED):
            raise ModelError(
                "onnx.unsupported",
                f"operator {DOMAIN}::{node.op_type} has no form in standard ONNX",
                hint="choose another backend",
            )
    model.opset_imports.pop(DOMAIN, None)
