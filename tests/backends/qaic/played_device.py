"""ONNX Runtime in the part of the device: states stay between runs, and a write to nowhere is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from small_decoder import CONTEXT

from qeffbuild.cloud_ai_100.cache_ops import DOMAIN
from qeffbuild.graph.files import save_graph
from qeffbuild.signature import IoSignature

ANSWER = 6


class Device:
    """A lowered graph with its states, in `rows` slots.

    ONNX Runtime refuses a write to nowhere. Here it lands in a slot behind the cache, which is cut off again.
    """

    def __init__(
        self, model: ir.Model, signature: IoSignature, rows: int, folder: Path, context: int = CONTEXT
    ) -> None:
        for function in model.functions.values():
            if function.domain == DOMAIN and function.name.startswith("CtxScatter"):
                _drop_writes_to_nowhere(function)
        save_graph(model, folder / "graph.onnx")
        onnx.checker.check_model(str(folder / "graph.onnx"), full_check=True)
        self.session = ort.InferenceSession(folder / "graph.onnx", providers=["CPUExecutionProvider"])
        self.signature = signature
        # What memory holds before anything was written is anything.
        sizes: dict[int | str, Any] = {"batch_size": rows, "full_batch_size": rows, "ctx_len": context}
        sizes["sliding_window"] = next((state.window for state in signature.states if state.window), None)
        self.states = {
            state.name: np.full([sizes.get(axis, axis) for axis in state.axes], np.nan).astype(state.dtype)
            for state in signature.states
        }
        self.made: dict[str, np.ndarray] = {}

    def run(self, ids: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], **more: np.ndarray) -> np.ndarray:
        feed = {"input_ids": np.array(ids), "position_ids": np.array(positions), **more, **self.states}
        names = [output.name for output in self.session.get_outputs()]
        made = dict(zip(names, self.session.run(None, feed), strict=True))
        self.states = {state.name: made[state.output] for state in self.signature.states}
        self.made = made
        return made.get("logits", made[names[0]])


def _drop_writes_to_nowhere(function: ir.Function) -> None:
    """A slot more, to which all writes beyond the cache go."""
    data, positions = function.inputs[0], next(value for value in function.inputs if value.name == "position_ids")
    write = next(node for node in function if node.op_type == "ScatterND")
    size = ir.node("Shape", [data], {"start": 2, "end": 3})
    slots = ir.node("Min", [positions, size.outputs[0]])
    first, second, axis = (ir.node("Constant", [], {"value_ints": [number]}) for number in (0, 1, 2))
    bounds = [first.outputs[0], second.outputs[0], axis.outputs[0]]
    more = ir.node("Slice", [data, *bounds])
    longer = ir.node("Concat", [data, more.outputs[0]], {"axis": 2})
    cut = ir.node("Slice", [write.outputs[0], first.outputs[0], size.outputs[0], axis.outputs[0]])
    for user, place in list(positions.uses()):
        if user.op_type == "Unsqueeze":
            user.replace_input_with(place, slots.outputs[0])
    write.replace_input_with(0, longer.outputs[0])
    function.outputs[0] = cut.outputs[0]
    function.insert_before(function[0], [size, slots, first, second, axis, more, longer])
    function.insert_after(write, [cut])


def chunks(prompts: Sequence[Sequence[int]], size: int) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    """Ids and positions, padded on the right to whole chunks of the longest prompt."""
    longest = max(map(len, prompts))
    for start in range(0, longest, size):
        span = range(start, start + size)
        ids = [[prompt[i] if i < len(prompt) else 0 for i in span] for prompt in prompts]
        yield ids, [[i if i < len(prompt) else -1 for i in span] for prompt in prompts]


def generate(device: Device, prompts: Sequence[Sequence[int]], size: int, **more: np.ndarray) -> list[list[int]]:
    """Greedy tokens, each row's first one from the chunk that holds its prompt's end."""
    next_ids = [0] * len(prompts)
    for ids, positions in chunks(prompts, size):
        logits = device.run(ids, positions, **more)
        for row, prompt in enumerate(prompts):
            if len(prompt) - 1 in positions[row]:
                next_ids[row] = int(logits[row, -1].argmax())
    answers = [[token] for token in next_ids]
    for step in range(ANSWER - 1):
        at = [[len(prompt) + step] for prompt in prompts]
        logits = device.run([[answer[-1]] for answer in answers], at, **more)
        for row, answer in enumerate(answers):
            answer.append(int(logits[row, -1].argmax()))
    return answers
