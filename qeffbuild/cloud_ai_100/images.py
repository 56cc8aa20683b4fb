"""Graphs of a model that sees -> their Cloud AI 100 form: what embeds an image, and the decoder that takes embeddings.

What the decoder holds from run to run (embeddings, or pixels where it embeds them itself) is retained state: it comes
in, and goes out as it came in. The n-th image token of a row takes the n-th embedding; `image_idx` counts.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass

from qeffbuild.cloud_ai_100.finish import finish
from qeffbuild.cloud_ai_100.names import IMAGE
from qeffbuild.errors import ModelError
from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.ops import lower_portable
from qeffbuild.signature import Axis, IoSignature, State, Tensor

VISION = "vision"
TAKEN, TAKEN_OUTPUT = "image_idx", "image_idx_output"
PIXELS = "pixel_values"
ROWS, SIZE = "vision_batch_size", "img_size"


def lower_vision(model: ir.Model, signature: IoSignature) -> IoSignature:
    """Rewrites `model`; its inputs and outputs from now on."""
    InlinePass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    lowered = signature.with_inputs(tuple(replace(t, axes=named_axes(t)) for t in signature.inputs))
    for value, tensor in zip(model.graph.inputs, lowered.inputs, strict=True):
        value.shape = ir.Shape(tensor.axes)
    lower_portable(model)
    finish(model, lowered)
    return lowered


def named_axes(pixels: Tensor) -> tuple[Axis, ...]:
    """One square image in channels has the axes that its specialization names; tiles and patches have their numbers."""
    axes = pixels.axes
    if len(axes) == 4 and axes[0] == 1 and axes[2] == axes[3]:
        return ("batch_size", axes[1], SIZE, SIZE)
    return axes


def sees(signature: IoSignature) -> bool:
    return any(tensor.name == TAKEN for tensor in signature.inputs)


def retain_images(graph: ir.Graph, signature: IoSignature, *, one_row: bool) -> IoSignature:
    """What is held becomes states. With `one_row` they and the count are of one prompt, whose row may be any."""
    if not sees(signature):
        return signature
    emit, inputs = Emitter(graph, "images"), {value.name: value for value in graph.inputs}
    one_row = one_row or any(tensor.name == PIXELS for tensor in signature.held)
    for node in list(graph):
        if node.op_type == "GatherElements" and _is_made_from(node.inputs[1], inputs[TAKEN]):
            _take(emit, node, one_row=one_row)
    states = []
    for tensor in signature.held:
        kept = emit("Identity", inputs[tensor.name])
        kept.name, kept.type = f"{tensor.name}_RetainedState", ir.TensorType(ir.DataType.FLOAT)
        axes = named_axes(tensor) if tensor.name == PIXELS else (ROWS, *tensor.axes[1:])
        inputs[tensor.name].shape = kept.shape = ir.Shape(axes)
        graph.outputs.append(kept)
        states.append(_state(tensor, kept.name, axes))
    graph.extend(emit.waiting())
    if one_row:
        _count_one_row(graph, emit)
    remove_unread(graph)
    retained = replace(signature, states=(*states, *signature.states), held=())
    return of_one_row(graph, retained) if one_row else retained


def of_one_row(graph: ir.Graph, signature: IoSignature) -> IoSignature:
    """Where a program has one row, what counts its embeddings says so, whatever the graph's axes are called."""

    def told(tensor: Tensor) -> Tensor:
        return replace(tensor, axes=(1, 1)) if tensor.name in (TAKEN, TAKEN_OUTPUT) else tensor

    for value in (*graph.inputs, *graph.outputs):
        if value.name in (TAKEN, TAKEN_OUTPUT):
            value.shape = ir.Shape((1, 1))
    return replace(signature, inputs=tuple(map(told, signature.inputs)), outputs=tuple(map(told, signature.outputs)))


def _state(tensor: Tensor, output: str, axes: tuple[Axis, ...]) -> State:
    return State(name=tensor.name, output=output, dtype=tensor.dtype, axes=axes, layer=0, kind=IMAGE, positional=False)


def _count_one_row(graph: ir.Graph, emit: Emitter) -> None:
    """Rows that decode have no image tokens, so all of them count what the one row that prefills does."""
    at = next(place for place, value in enumerate(graph.outputs) if value.name == TAKEN_OUTPUT)
    each = graph.outputs[at]
    largest = emit("ReduceMax", each, [0], keepdims=1)
    largest.type = each.type
    each.name, largest.name = f"{TAKEN_OUTPUT}.rows", TAKEN_OUTPUT
    graph.outputs[at] = largest
    graph.extend(emit.waiting())


def _take(emit: Emitter, node: ir.Node, *, one_row: bool) -> None:
    """GatherElements(embeddings[B, ..., V, D], index of every number) -> a gather of whole embeddings."""
    embeddings, spread = node.inputs[0], node.inputs[1]
    index = _index(spread)
    if index is None or embeddings is None or embeddings.shape is None:
        if one_row:
            raise ModelError("onnx.unsupported", "graph: how it takes embeddings of images has no form for one prompt")
        return
    is_stacked = len(embeddings.shape) == 4  # features of several layers
    if one_row:
        maker = embeddings.producer()
        source = maker.inputs[0] if maker is not None and maker.op_type == "Expand" else embeddings
        rows = emit("Squeeze", source, [0])
        made = emit("Gather", rows, index, axis=1 if is_stacked else 0)
        made = emit("Transpose", made, perm=[1, 0, 2, 3]) if is_stacked else made
    else:
        by_row = emit("Transpose", embeddings, perm=[0, 2, 1, 3]) if is_stacked else embeddings
        made = emit("GatherND", by_row, emit("Unsqueeze", index, [2]), batch_dims=1)
        made = emit("Transpose", made, perm=[0, 2, 1, 3]) if is_stacked else made
    replace_value(emit.graph, node.outputs[0], made)
    emit.place(node)


def _index(spread: ir.Value | None) -> ir.Value | None:
    """index[B, S] of index[B, ..., S, ...] spread over the width of an embedding, one new axis after the other."""
    node = spread.producer() if spread is not None else None
    if node is None or node.op_type != "Expand" or node.inputs[0] is None:
        return None
    value: ir.Value | None = node.inputs[0]
    while value is not None and (maker := value.producer()) is not None and maker.op_type == "Unsqueeze":
        value = maker.inputs[0]
    return value if value is not None and value.shape is not None and len(value.shape) == 2 else None


def _is_made_from(value: ir.Value | None, origin: ir.Value) -> bool:
    left, seen = [value], set()
    while left:
        value = left.pop()
        if value is origin:
            return True
        maker = value.producer() if value is not None else None
        if maker is not None and maker not in seen:
            seen.add(maker)
            left.extend(maker.inputs)
    return False
