"""A neutral graph without states (an encoder, a listener) -> its Cloud AI 100 form; weights are still references."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass

from qeffbuild.cloud_ai_100.finish import finish
from qeffbuild.errors import ModelError
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.hoist import BEGIN, END, is_mark
from qeffbuild.graph.ops import lower_portable
from qeffbuild.signature import IoSignature

_TYPES = "token_type_ids"  # the compiled form reads one text at a time


def lower_reader(model: ir.Model, signature: IoSignature) -> IoSignature:
    """Rewrites `model`; its inputs and outputs from now on."""
    InlinePass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    lowered = _without_types(model.graph, signature)
    lower_portable(model)
    finish(model, lowered)
    return lowered


def refuse_free_lengths(graph: ir.Graph, signature: IoSignature) -> None:
    """A compiled graph has lengths of its own: what is shorter has to be padded, and no loop goes along it."""
    names = {tensor.name for tensor in signature.inputs}
    if "input_ids" in names and "attention_mask" not in names:
        found = "what stands behind a text changes what this model makes of it, and a compiled length is padded"
    elif any(len(tensor.axes) == 3 for tensor in signature.inputs):
        found = "this model is given frames of sound, whose compiled lengths are not known"
    elif any(is_mark(node, BEGIN | END) for node in graph):
        found = "its layers carry states from token to token by a loop, which the compiler does not have"
    else:
        return
    raise ModelError("onnx.unsupported", f"graph: {found}", hint="build it for backend=onnxruntime")


def _without_types(graph: ir.Graph, signature: IoSignature) -> IoSignature:
    """All tokens are of the first text."""
    inputs = {value.name: value for value in graph.inputs}
    if _TYPES not in inputs:
        return signature
    emit = Emitter(graph, "types")
    zeros = emit("Sub", inputs["input_ids"], inputs["input_ids"])
    inputs[_TYPES].replace_all_uses_with(zeros)
    emit.place(graph[0])
    graph.inputs.remove(inputs[_TYPES])
    return replace(signature, inputs=tuple(tensor for tensor in signature.inputs if tensor.name != _TYPES))
