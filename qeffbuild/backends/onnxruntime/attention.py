"""Attention by GroupQueryAttention, which reads only the filled slots, turns queries and keys, and writes the cache.

It takes one token of each row, or several tokens of one row, but not several of several behind a past; nor can a row
sit out. The session sees to both: it runs rows apart (session.py). What does not fit stays in standard operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.backends.onnxruntime import masks, rotary
from qeffbuild.calibration.kv import Scales
from qeffbuild.graph.blocked import blocks_of
from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.ops import ATTENTION, SCATTER, given, readers, size_of, symbolic
from qeffbuild.graph.probe import Ancestry

_VECTOR = 8  # the kernel wants head widths that are a multiple of this
_LOWEST = np.array(np.finfo(np.float32).min, np.float32)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's attention, the two writes that it reads, and what was recognised around them."""

    node: ir.Node
    writes: tuple[ir.Node, ir.Node]
    mask: masks.Causal | None
    turned: tuple[rotary.Rotation, rotary.Rotation] | None

    @property
    def caches(self) -> list[ir.Value]:
        return [given(write)[0] for write in self.writes]

    @property
    def kv_heads(self) -> int:
        return size_of(given(self.writes[0])[0], 1)

    @property
    def words(self) -> str:
        """What of it the operator does, for lower.json."""
        mask = "masked" if self.mask is None else f"window {self.mask.window}" if self.mask.window > 0 else "causal"
        return f"{mask}, rotary inside" if self.turned else mask


@dataclass(frozen=True, slots=True)
class Run:
    """What every layer wants to know of a run, worked out once."""

    lengths: ir.Value  # [B], one less than there are: so the operator counts
    longest: ir.Value
    tables: dict[tuple[rotary.Table, ...], list[ir.Value]]


def fuse_attention(model: ir.Model, scales: Mapping[str, Scales] | None = None) -> dict[str, Any]:
    """Rewrites what fits. How many layers have become what, and for each that has not, the reason.

    States that have `scales` are integers of 8 bits then; `int8` names them.
    """
    graph, scales, in_int8 = model.graph, scales or {}, list[str]()
    emit, left, fused = Emitter(graph, "attention"), dict[str, str](), Counter[str]()
    layers = []
    recognised = _Recogniser(graph, model.opset_imports[""])
    for number, node in enumerate(symbolic(graph, ATTENTION)):
        layer = recognised.layer(node)
        if isinstance(layer, str):
            left[node.name or str(number)] = layer
        else:
            layers.append(layer)
            fused[layer.words] += 1
    runs = dict[ir.Value, Run]()
    for layer in layers:
        position_ids = given(layer.writes[0])[1]
        if position_ids not in runs:
            runs[position_ids] = _run(emit, position_ids)
        names = [cache.name or "" for cache in layer.caches]
        has_scales = all(name in scales for name in names)
        _rewrite(graph, emit, layer, runs[position_ids], [scales[name] for name in names] if has_scales else [])
        in_int8 += names if has_scales else []
    for write in symbolic(graph, SCATTER):
        if not any(node.op_type == ATTENTION for node in readers(write.outputs[0])):
            left[given(write)[0].name or ""] = "the model works out its attention itself"
    return {"fused": dict(sorted(fused.items())), "left_portable": left, "int8": in_int8}


class _Recogniser:
    """Looks at one layer after the other; masks that layers share are tried once."""

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.graph, self.opset = graph, opset
        self.ancestry = Ancestry(graph)
        self.masks: dict[ir.Value, masks.Causal | None] = {}

    def layer(self, node: ir.Node) -> Layer | str:
        """The layer that ends in an attention node, or why GroupQueryAttention would not be the same."""
        query, *caches, mask = given(node)
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
            if positions is not key.inputs[1] or cache not in self.graph.inputs or readers(cache) != [write]:
                return "its cache is shared"
            if readers(write.outputs[0]) != [node]:
                return "its cache is read elsewhere"
        if any(value.name == "logits_index" for value in self.ancestry.inputs_of(mask) or ()):
            return "not every token that is written asks"
        if blocks_of(node) is not None:
            return "it is asked for in blocks"
        if mask not in self.masks:
            self.masks[mask] = masks.recognise(mask, self.ancestry, self.opset)
        return Layer(node, (key, value), self.masks[mask], self._rotations(query, key))

    def _rotations(self, query: ir.Value, key: ir.Node) -> tuple[rotary.Rotation, rotary.Rotation] | None:
        """Both rotations, where they are by the same angles and of a kind that the operator has."""
        _, positions, update = given(key)
        if positions not in self.graph.inputs:
            return None
        first, second = (rotary.recognise(value, self.ancestry, positions, self.opset) for value in (query, update))
        if first is None or second is None or first.angles != second.angles:
            return None
        return None if first.width // 2 % _VECTOR else (first, second)


def _run(emit: Emitter, position_ids: ir.Value) -> Run:
    # A row without a token is given slot 0; the session puts back what was there.
    last = emit("Max", emit("ReduceMax", position_ids, [1], keepdims=0), 0)
    lengths = emit("Cast", last, to=ir.DataType.INT32)
    longest = emit("Add", emit("ReduceMax", lengths, keepdims=0), np.array(1, np.int32))
    return Run(lengths, longest, {})


def _rewrite(graph: ir.Graph, emit: Emitter, layer: Layer, run: Run, scales: list[Scales]) -> None:
    query, _, _, mask = given(layer.node)
    heads, width = size_of(query, 1), size_of(query, 3)
    key, value = (given(write)[2] for write in layer.writes)
    words: dict[str, Any] = {}
    tables: list[ir.Value | None] = [None, None, None]
    if layer.turned:
        first, second = layer.turned
        flat = [_flat(emit, first.plain, first.heads_first), _flat(emit, second.plain, second.heads_first)]
        tables = [*_tables(emit, first, run, given(layer.writes[0])[1])]
        words = {"do_rotary": 1, "rotary_interleaved": int(first.is_interleaved)}
    else:
        flat = [_flat(emit, query, True), _flat(emit, key, True)]
    flat.append(_flat(emit, value, True))
    bias = _bias(emit, mask, run) if layer.mask is None else None
    if layer.mask is not None and layer.mask.window > 0:
        words["local_window_size"] = layer.mask.window
    if scales:
        words |= {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
    # Behind what is left out here, the weights of a sink.
    steps = [None, *(said.per_channel.astype(np.float32)[None, :, None] for said in scales)] if scales else []
    caches = layer.caches
    result, *states = emit.several(
        "GroupQueryAttention", 3, *flat, *caches, run.lengths, run.longest, *tables, bias, *steps,
        domain="com.microsoft", num_heads=heads, kv_num_heads=layer.kv_heads,
        scale=layer.node.attributes["scale"].as_float(), softcap=layer.node.attributes["softcap"].as_float(), **words,
    )  # fmt: skip
    olds = [layer.node.outputs[0], *(write.outputs[0] for write in layer.writes)]
    batch, tokens = query.shape[0], query.shape[2]  # type: ignore[index]
    result.shape, result.type = ir.Shape([batch, tokens, heads * width]), query.type
    emitted = emit("Reshape", result, [0, 0, heads, width])
    emit.place(layer.node)
    for old, new in zip(olds, (emitted, *states), strict=True):
        replace_value(graph, old, new)
    if scales:
        for value in (*caches, *states):
            value.type = ir.TensorType(ir.DataType.INT8)
    graph.remove([layer.node, *layer.writes], safe=True)


def _tables(emit: Emitter, rotation: rotary.Rotation, run: Run, position_ids: ir.Value) -> list[ir.Value]:
    """Cosines, sines, and which of their rows is whose.

    The operator wants tables as long as the context and indices into them. Ours hold this run's tokens in their first
    rows, so any way of making angles will do, and what is behind them is never read.
    """
    key = (rotation.cosines, rotation.sines)
    if key not in run.tables:
        tokens = emit("Size", position_ids)
        missing = emit("Max", emit("Sub", emit("Cast", run.longest, to=ir.DataType.INT64), tokens), 0)
        pads = emit("Concat", [0, 0], emit("Unsqueeze", missing, [0]), [0], axis=0)
        tables = [emit("Pad", table.emit(emit), pads) for table in key]
        rows = emit("Reshape", emit("Range", 0, tokens, 1), emit("Shape", position_ids))
        run.tables[key] = [*tables, rows]
    return run.tables[key]


def _bias(emit: Emitter, mask: ir.Value, run: Run) -> ir.Value:
    """Any mask, as numbers that are added to the scores."""
    longest = emit("Unsqueeze", emit("Cast", run.longest, to=ir.DataType.INT64), [0])
    return emit("Where", emit("Slice", mask, [0], longest, [3]), np.array(0, np.float32), _LOWEST)


def _flat(emit: Emitter, x: ir.Value, heads_first: bool) -> ir.Value:
    """[B, heads, S, D], or [B, S, heads, D] -> [B, S, heads * D]; what only rearranges is looked through."""
    heads, width = size_of(x, 1 if heads_first else 2), size_of(x, 3)
    if heads_first:
        node = x.producer()
        if node is not None and node.op_type == "Transpose" and node.attributes["perm"].as_ints() == (0, 2, 1, 3):
            x = given(node)[0]
        else:
            x = emit("Transpose", x, perm=[0, 2, 1, 3])
    node = x.producer()
    if node is not None and node.op_type == "Reshape":
        before = given(node)[0]
        if before.shape is not None and len(before.shape) == 3 and before.shape[2] == heads * width:
            return before
    return emit("Reshape", x, [0, 0, heads * width])
