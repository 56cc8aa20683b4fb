"""Multi-head latent attention without keys and values: queries meet the latents of the cache themselves.

The projection that would make keys of latents is moved to the queries, the one that would make values of them behind
the attention. So there is one key head, as wide as a latent, and nothing as long as the context is made.
B rows, H heads, S tokens, C slots; widths: R of a latent, D and P of a key without and with position, V of a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.errors import ModelError
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.fold import foldable_values, remove_unread
from qeffbuild.graph.ops import ATTENTION, SCATTER, given, maker, size_of, symbolic
from qeffbuild.signature import State
from qeffbuild.transforms.subject import Subject

LATENT, POSITION = "compressed_kv", "k_pe"  # as those who serve such models call the two states


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """The latents [B,1,C,R] and the turned parts of keys [B,1,C,P] of the cache; the weight [R, H * (D + V)]."""

    latents: ir.Value
    turned: ir.Value
    weight: ir.Value
    key_width: int
    value_width: int


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    graph, emit = subject.graph, Emitter(subject.graph, "latent")
    constant = foldable_values(graph)
    states = {state.output: state for state in subject.signature.states}
    renamed: dict[str, State] = {}
    layers = 0
    for node in symbolic(graph, ATTENTION):
        layer = _layer(node, constant)
        if layer is None:
            continue
        layers += 1
        _absorb(emit, node, layer)
        for value, name, kind in ((layer.latents, LATENT, "value"), (layer.turned, POSITION, "key")):
            state = states[str(value.name)]
            # What latents hold where nothing is written yet is multiplied like values: a device has to clear it.
            renamed[state.name] = replace(
                state, name=f"{name}.{state.layer}", output=f"{name}.{state.layer}_RetainedState", kind=kind
            )
    if not layers:
        raise ModelError(
            "onnx.unsupported",
            "transforms.mla_absorption: no layer of this model keeps latents",
            hint="leave it out",
        )
    remove_unread(graph)
    _rename(subject, renamed)
    subject.report |= {"layers": layers}


def _layer(node: ir.Node, constant: set[ir.Value]) -> _Layer | None:
    """Keys are parts of an expansion beside a turned part that all heads share; values are its other parts."""
    _, key, value, _ = given(node)
    joined = maker(key, "Concat")
    if joined is None or len(joined.inputs) != 2:
        return None
    plain, shared = given(joined)
    spread = maker(shared, "Expand")
    first, second = _part(plain), _part(value)
    if spread is None or first is None or second is None or first[0] is not second[0]:
        return None
    expansion, start, end = first
    if start != 0 or second[1] != end or second[2] != size_of(expansion, 3):
        return None
    heads_first = maker(expansion, "Transpose")
    apart = None if heads_first is None else maker(given(heads_first)[0], "Reshape")
    product = None if apart is None else maker(given(apart)[0], "MatMul")
    if product is None:
        return None
    latents, weight = given(product)
    turned = given(spread)[0]
    if weight not in constant or maker(latents, SCATTER) is None or maker(turned, SCATTER) is None:
        return None
    return _Layer(latents=latents, turned=turned, weight=weight, key_width=end, value_width=second[2] - end)


def _absorb(emit: Emitter, node: ir.Node, layer: _Layer) -> None:
    query, _, _, mask = given(node)
    heads, rank, width = size_of(query, 1), size_of(layer.latents, 3), layer.key_width
    both = emit("Reshape", layer.weight, [rank, heads, width + layer.value_width])
    both = emit("Transpose", both, perm=[1, 0, 2])  # [H, R, D + V]
    to_keys = emit("Transpose", emit("Slice", both, [0], [width], [2]), perm=[0, 2, 1])
    to_values = emit("Slice", both, [width], [width + layer.value_width], [2])
    plain = emit("Slice", query, [0], [width], [3])
    with_position = emit("Slice", query, [width], [size_of(query, 3)], [3])
    asked = emit("Concat", emit("MatMul", plain, to_keys), with_position, axis=3)
    keys = emit("Concat", layer.latents, layer.turned, axis=3)
    wide = rank + size_of(layer.turned, 3)
    _describe(asked, query, {3: wide})
    _describe(keys, layer.latents, {3: wide})
    seen = emit("Attention", asked, keys, layer.latents, mask, domain=node.domain, **_numbers(node))
    out = node.outputs[0]
    _describe(seen, out, {3: rank})
    by_head = emit("MatMul", emit("Transpose", seen, perm=[0, 2, 1, 3]), to_values)
    result = emit("Transpose", by_head, perm=[0, 2, 1, 3])
    result.shape, result.type = out.shape, out.type
    emit.place(node)
    out.replace_all_uses_with(result)


def _numbers(node: ir.Node) -> dict[str, float]:
    return {name: node.attributes[name].as_float() for name in ("scale", "softcap")}


def _describe(value: ir.Value, like: ir.Value, sizes: Mapping[int, int]) -> None:
    assert like.shape is not None
    axes = [sizes.get(axis, size) for axis, size in enumerate(like.shape)]
    value.shape, value.type = ir.Shape(axes), like.type


def _part(value: ir.Value) -> tuple[ir.Value, int, int] | None:
    """What a value is a part of along the last of four axes, and from where to where."""
    node = value.producer()
    if node is None or value.shape is None or len(value.shape) != 4:
        return None
    if node.op_type == "Split":
        whole = given(node)[0]
        widths = [size_of(output, 3) for output in node.outputs]
        start = sum(widths[: node.outputs.index(value)])
        return whole, start, start + size_of(value, 3)
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return None
    whole, *numbers = given(node)
    start, _, axis = (int(_constant(number)) for number in numbers[:3])
    steps = [int(_constant(number)) for number in numbers[3:]]
    if axis % 4 != 3 or steps not in ([], [1]):
        return None
    return whole, start, start + size_of(value, 3)


def _constant(value: ir.Value) -> np.ndarray:
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    return tensor.numpy().reshape(-1)[0]


def _rename(subject: Subject, renamed: Mapping[str, State]) -> None:
    states = subject.signature.states
    values = {value.name: value for value in (*subject.graph.inputs, *subject.graph.outputs)}
    for state in states:
        if (new := renamed.get(state.name)) is not None:
            values[state.name].name, values[state.output].name = new.name, new.output
    subject.signature = subject.signature.with_states(tuple(renamed.get(state.name, state) for state in states))
