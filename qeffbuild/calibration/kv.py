"""Keys and values on their way into the cache -> scales for an int8 cache, and what such a cache does to accuracy.

`ranges` finds the scales, `write_scales` and `read_scales` are the file that a package carries: for each state by name
one scale for the whole tensor, and one for each channel [heads, width]. int8 is round(x / scale).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qeffbuild.calibration.flow import EXACT, Flow
from qeffbuild.errors import ModelError
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.microscaling import BLOCK
from qeffbuild.graph.ops import SCATTER, given, size_of, symbolic
from qeffbuild.package import KV_SCALES

_ROUNDING = ("Mul", "Clip", "Round", "Div")  # what `round_to_int8` puts before a write, from its end


@dataclass(frozen=True, slots=True)
class Scales:
    """Of one state: `per_channel` has the shape of a token's keys or values, mostly [heads, width]."""

    per_tensor: float
    per_channel: np.ndarray


def ranges(flow: Flow, graph: ir.Graph) -> dict[str, Scales]:
    """The scales of every state that is written by position; `graph` is the neutral one that `flow` runs a copy of."""
    found = {}
    for node in writes(graph):
        cache, _, updates = given(node)
        flow.reach(updates.name or "")
        batches = [np.abs(batch) for batch in flow.batches(updates.name or "", EXACT)]
        largest = np.maximum.reduce([_over_tokens(batch) for batch in batches])
        smallest = np.finfo(np.float32).tiny
        per_channel = np.maximum(largest / 127, smallest)
        found[cache.name or ""] = Scales(float(per_channel.max()), per_channel)
    return found


def writes(graph: ir.Graph) -> list[ir.Node]:
    """Where keys and values are written; a text that is kept to be read anew is written so, too."""
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return [node for node in symbolic(graph, SCATTER) if given(node)[0].dtype in floats]


def write_scales(scales: Mapping[str, Scales], folder: Path, tokens: int) -> None:
    states = {
        name: {"per_tensor": said.per_tensor, "per_channel": said.per_channel.tolist()} for name, said in scales.items()
    }
    said = {"schema": 1, "calibrated_on": tokens, "states": states}
    (folder / KV_SCALES).write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def read_scales(folder: Path) -> dict[str, Scales]:
    """What `write_scales` wrote; nothing where a cache was not calibrated."""
    if not (folder / KV_SCALES).is_file():
        return {}
    states = json.loads((folder / KV_SCALES).read_text())["states"]
    return {
        name: Scales(said["per_tensor"], np.array(said["per_channel"], np.float32)) for name, said in states.items()
    }


def drop_rounding(graph: ir.Graph) -> None:
    """Undoes `round_to_int8`, for who stores integers."""
    for node in writes(graph):
        value, made = node.inputs[2], list[str]()
        while value is not None and (maker := value.producer()) is not None and len(made) < len(_ROUNDING):
            made.append(maker.op_type)
            value = maker.inputs[0]
        if tuple(made) == _ROUNDING:
            node.replace_input_with(2, value)
    remove_unread(graph)


def round_to_int8(graph: ir.Graph, scales: Mapping[str, Scales]) -> None:
    """Every write to the cache is rounded as int8 would round it; the cache itself stays float."""
    emit = Emitter(graph, "int8_cache")
    for node in writes(graph):
        cache, _, updates = given(node)
        scale = scales[cache.name or ""].per_channel
        step = np.expand_dims(scale, (0, -2)).astype(np.float32)  # [1, heads, 1, width], or [1, 1, width]
        numbers = emit("Clip", emit("Round", emit("Div", updates, step)), _f(-127), _f(127))
        _write(emit, node, emit("Mul", numbers, step))


def round_to_mxint8(graph: ir.Graph) -> None:
    """The same for MXINT8: 32 neighbours of a head share a power of two, exact in float32 arithmetic."""
    emit = Emitter(graph, "mxint8_cache")
    for node in writes(graph):
        _, _, updates = given(node)
        width = size_of(updates, -1)
        if width > BLOCK and width % BLOCK:
            raise ModelError(
                "model.unsupported",
                f"quantization.kv_cache: heads of {width} are no blocks of {BLOCK}",
                hint="quantization.kv_cache=int8",
            )
        blocks = emit("Reshape", updates, emit("Concat", _leading(emit, updates), [-1, min(width, BLOCK)], axis=0))
        scale = _power_of_two(emit, emit("ReduceMax", emit("Abs", blocks), [-1], keepdims=1))
        numbers = emit("Round", emit("Mul", emit("Div", blocks, scale), _f(64)))
        numbers = emit("Clip", numbers, _f(-127), _f(127))
        rounded = emit("Mul", emit("Mul", numbers, _f(1 / 64)), scale)
        _write(emit, node, emit("Reshape", rounded, emit("Shape", updates)))


def _power_of_two(emit: Emitter, largest: ir.Value) -> ir.Value:
    """The power of two at or below each value. A logarithm may be off by a hair, so it is held against the powers."""
    two = _f(2)
    largest = emit("Max", largest, _f(2.0**-126))
    guess = emit("Floor", emit("Mul", emit("Log", largest), _f(1 / np.log(2))))
    too_low = emit("LessOrEqual", emit("Pow", two, emit("Add", guess, _f(1))), largest)
    guess = emit("Where", too_low, emit("Add", guess, _f(1)), guess)
    too_high = emit("Greater", emit("Pow", two, guess), largest)
    return emit("Pow", two, emit("Where", too_high, emit("Sub", guess, _f(1)), guess))


def _leading(emit: Emitter, value: ir.Value) -> ir.Value:
    return emit("Shape", value, start=0, end=len(value.shape or ()) - 1)


def _write(emit: Emitter, node: ir.Node, rounded: ir.Value) -> None:
    updates = node.inputs[2]
    assert updates is not None
    rounded.shape, rounded.type = updates.shape, updates.type
    emit.place(node)
    node.replace_input_with(2, rounded)


def _over_tokens(batch: np.ndarray) -> np.ndarray:
    """The largest over rows and tokens of [batch, ..., tokens, width]."""
    return np.asarray(batch.max(axis=(0, -2)), np.float32)


def _f(number: float) -> np.ndarray:
    return np.array(number, np.float32)
