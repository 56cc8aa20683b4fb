"""A decoder and an encoder of sound, both in Cloud AI 100 form -> one graph that hears in its first run.

With as many frames as the encoder takes it fills the cross cache; with one frame it keeps what is there. Which of the
two a program does is known while it is compiled, for the number of frames is an axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qeffbuild.cloud_ai_100.form import unsupported
from qeffbuild.cloud_ai_100.layers import name_nodes
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.fold import remove_unread
from qeffbuild.signature import IoSignature, State, Tensor

FRAMES = "feature_len"
_SOUND = "input_features"


def merge_speech(decoder: ir.Model, encoder: ir.Model, lowered: IoSignature, heard: IoSignature) -> IoSignature:
    """Moves the encoder into `decoder`; the inputs and outputs of both. `heard` is the encoder's signature."""
    (sound,) = heard.inputs
    _free_frames(encoder.graph, sound)
    outputs = {value.name: value for value in encoder.graph.outputs}
    features = encoder.graph.inputs[0]
    _move(encoder.graph, decoder.graph)
    graph, inputs = decoder.graph, {value.name: value for value in decoder.graph.inputs}
    graph.inputs.append(features)
    emit = Emitter(graph, "hearing")
    is_new = emit("Greater", emit("Shape", features, start=2, end=3), np.array([1], np.int64))
    cross = {}
    for tensor in heard.outputs:
        past, new = inputs[tensor.name], outputs[tensor.name]
        kept = emit("Where", is_new, new, past)
        kept.name, kept.type = f"{tensor.name}_RetainedState", ir.TensorType(ir.DataType.FLOAT)
        kept.shape = ir.Shape(past.shape or ())
        past.replace_all_uses_with(kept)
        kept.producer().replace_input_with(2, past)  # type: ignore[union-attr]
        cross[tensor.name] = kept
    encoder_end = max((graph.index(node) for node in graph if (node.name or "").startswith("encoder/")), default=0)
    emit.place(graph[encoder_end + 1])
    signature = _signature(lowered, sound, tuple(cross))
    _set_io(graph, signature)
    remove_unread(graph)
    name_nodes(graph, signature)
    return signature


def _free_frames(graph: ir.Graph, sound: Tensor) -> None:
    """What the trace fixed to the longest sound follows from the number of frames again."""
    most = sound.axes[2]
    assert isinstance(most, int)
    positions = most // 2  # two frames become one position
    for node in graph:
        if node.op_type == "Reshape":
            _free_reshape(graph, node, positions)
    table = next((node for node in graph if node.op_type == "Add" and _table(node, positions) is not None), None)
    if table is None:
        raise unsupported("the encoder adds no table of positions")
    place = _table(table, positions)
    assert place is not None
    emit, rows = Emitter(graph, "frames"), table.inputs[1 - place]
    assert rows is not None
    cut = emit("Slice", table.inputs[place], [0], emit("Shape", rows, start=1, end=2), [0])
    emit.place(table)
    table.replace_input_with(place, cut)
    sizes = {most: FRAMES, positions: None}
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([sizes.get(size, size) if isinstance(size, int) else size for size in value.shape])


def _table(node: ir.Node, positions: int) -> int | None:
    """Which input of an addition is a matrix with a row for each position."""
    for place, value in enumerate(node.inputs):
        if value is not None and value.shape is not None and len(value.shape) == 2 and value.shape[0] == positions:
            return place
    return None


def _free_reshape(graph: ir.Graph, node: ir.Node, positions: int) -> None:
    target = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
    if target is None or positions not in (sizes := target.numpy().tolist()):
        return
    if -1 in sizes:
        raise unsupported("a shape of the encoder has two free sizes")
    emit = Emitter(graph, f"frames.{node.name}")
    node.replace_input_with(1, emit.constant(np.array([-1 if size == positions else size for size in sizes])))


def _move(source: ir.Graph, target: ir.Graph) -> None:
    """All nodes and constants, under names of their own; weights that both have are one."""
    for value in list(source.initializers.values()):
        name = value.name or ""
        del source.initializers[name]
        twin = target.initializers.get(name)
        if twin is not None and isinstance(value.const_value, ir.ExternalTensor):
            value.replace_all_uses_with(twin)
            continue
        if twin is not None:
            value.name = f"encoder/{name}"
        target.initializers.add(value)
    nodes = list(source)
    source.outputs.clear()
    features = source.inputs[0]
    source.inputs.clear()
    source.remove(nodes)
    for node in nodes:
        node.name = f"encoder/{node.name}"
        for value in node.outputs:
            value.name = f"encoder/{value.name}"
    target.insert_before(target[0], nodes)
    assert features.name == _SOUND


def _signature(lowered: IoSignature, sound: Tensor, cross: tuple[str, ...]) -> IoSignature:
    """Inputs and states in the compiled form's own words: what the decoder caches, then what it was told, by layer."""
    words = {"ctx_len": "decoder_ctx_len"}
    own = [
        replace(state, axes=tuple(words.get(axis, axis) if isinstance(axis, str) else axis for axis in state.axes))
        for state in lowered.states
    ]
    taken = {tensor.name: tensor for tensor in lowered.inputs}
    told = [_told(taken[name]) for name in cross]
    count = max(state.layer for state in own) + 1
    states = [state for layer in range(count) for state in (*_on(own, layer), *_on(told, layer))]
    features = replace(sound, axes=(*sound.axes[:2], FRAMES))
    rest = tuple(tensor for tensor in lowered.inputs if tensor.name not in cross)
    return replace(lowered, inputs=(features, *rest), states=tuple(states))


def _on(states: list[State], layer: int) -> Iterator[State]:
    return (state for state in states if state.layer == layer)


def _told(tensor: Tensor) -> State:
    stem, _, layer = tensor.name.partition(".")
    return State(
        name=tensor.name,
        output=f"{tensor.name}_RetainedState",
        dtype=tensor.dtype,
        axes=tensor.axes,
        layer=int(layer),
        kind="key" if "key" in stem else "value",
        positional=False,
    )


def _set_io(graph: ir.Graph, signature: IoSignature) -> None:
    made = {value.name: value for node in graph for value in node.outputs}
    inputs = {value.name: value for value in graph.inputs}
    for tensor in signature.inputs:
        inputs[tensor.name].shape = ir.Shape(tensor.axes)
    for state in signature.states:
        inputs[state.name].shape = made[state.output].shape = ir.Shape(state.axes)
    taken = [*(tensor.name for tensor in signature.inputs), *(state.name for state in signature.states)]
    graph.inputs[:] = [inputs[name] for name in taken]
    names = [*(tensor.name for tensor in signature.outputs), *(state.output for state in signature.states)]
    graph.outputs[:] = [made[name] for name in names]
