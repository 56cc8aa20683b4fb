"""Neutral graph -> the form that ONNX Runtime runs best; weights are still references."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from qeffbuild.backends.onnxruntime.activations import fuse_activations
from qeffbuild.backends.onnxruntime.attention import fuse_attention
from qeffbuild.backends.onnxruntime.detours import drop_detours, drop_flattening
from qeffbuild.backends.onnxruntime.gathering import gather_early
from qeffbuild.backends.onnxruntime.norms import fuse_norms
from qeffbuild.backends.onnxruntime.packing import absorb_biases, pack_attention
from qeffbuild.backends.onnxruntime.tables import round_tables
from qeffbuild.calibration.kv import Scales, drop_rounding, read_scales, round_to_int8
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.held import hold_blocks
from qeffbuild.graph.loops import lower_loops
from qeffbuild.graph.ops import SCATTER, lower_portable, readers, symbolic
from qeffbuild.graph.tied import share_tied_head
from qeffbuild.graphs import Member, members
from qeffbuild.signature import IoSignature


def run(work: Work) -> None:
    for member in members(work.inputs["graph"]):
        model = load_graph(member.graph)
        scales = {} if member.prefix else read_scales(work.inputs.get("kv_scales", work.inputs["graph"]))
        # The fused form sees what came before and nothing else; tokens of one image may see one another.
        attention = "portable" if member.signature.graph == "decoder" and _sees(member) else work.params["attention"]
        recurrence = work.params["recurrence"]
        said = lower(
            model, member.signature, attention=attention, recurrence=recurrence, scales=scales,
            embedding_bits=work.params.get("embedding_bits"),
        )  # fmt: skip
        save_graph(model, work.out / member.file)
        with_dtypes(member.signature, said["attention"]["int8"]).save(work.out / member.io.name)
        (work.out / f"{member.prefix}lower.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def _sees(member: Member) -> bool:
    return any(tensor.name == "image_idx" for tensor in member.signature.inputs)


def with_dtypes(signature: IoSignature, in_int8: Sequence[str]) -> IoSignature:
    """The signature of a graph some of whose states have become integers of 8 bits."""
    states = [replace(state, dtype="int8") if state.name in in_int8 else state for state in signature.states]
    return signature.with_states(tuple(states))


def lower(
    model: ir.Model,
    signature: IoSignature,
    *,
    attention: str,
    recurrence: str = "chunked",
    scales: Mapping[str, Scales] | None = None,
    embedding_bits: int | None = None,
) -> dict[str, Any]:
    """Rewrites `model`; what was chosen and why. `scales` are those of a cache in 8 bits."""
    InlinePass()(model)
    if scales:
        drop_rounding(model.graph)
    held = hold_blocks(model.graph)
    in_place = states_written_in_place(model.graph, signature)
    tied = share_tied_head(model.graph)
    fused: dict[str, Any] = {"fused": {}, "left_portable": {}, "int8": []}
    # Rows are run apart on views of the states, which have to lie together.
    if attention == "auto" and all(state.axes[0] == "batch_size" for state in signature.states):
        fused = fuse_attention(model, scales)
    if scales:  # states whose attention stays portable are floats, rounded as before
        round_to_int8(model.graph, scales)
    loops = lower_loops(model.graph, chunks=recurrence == "chunked")
    lower_portable(model)
    model.opset_imports["com.microsoft"] = 1
    counts = {"reshapes_dropped": drop_flattening(model.graph) + drop_detours(model.graph)}
    counts["biases_absorbed"] = absorb_biases(model.graph)
    counts["attention_packed"] = pack_attention(model.graph)
    counts |= fuse_activations(model) | fuse_norms(model)
    counts["products_of_asked_tokens"] = gather_early(model.graph)
    tables = round_tables(model.graph, embedding_bits) if embedding_bits else {}
    model.graph.sort()  # a fused norm stands where its sum was, and its scale may be made further on
    return {
        "schema": 1,
        "recurrence": {"asked": recurrence, **loops.as_json()},
        "attention": {"asked": attention, **fused},  # of "auto": what became of how many; what did not fit, and why
        "fused": counts,
        "in_place": in_place,
        "rows_apart": bool(fused["fused"]),
        "tied_head": tied,
        "tables": tables,
        "encoded": held,
        "has_blocks": any(node.op_type == "MatMulNBits" for node in model.graph),
    }


def states_written_in_place(graph: ir.Graph, signature: IoSignature) -> list[str]:
    """States whose input and output may be one buffer: the cache is read by nobody but the write that makes its output.

    Anybody else who read the old content could come after the write.
    """
    inputs = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}
    writes = {node.outputs[0]: node for node in symbolic(graph, SCATTER)}
    safe = []
    for state in signature.states:
        cache, write = inputs[state.name], writes.get(outputs[state.output])
        if write is not None and readers(cache) == [write] and write.inputs[0] is cache:
            safe.append(state.name)
    return safe
