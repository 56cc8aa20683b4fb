"""ONNX Runtime in the part of the device: states stay between runs, and a write to nowhere is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from dropped_writes import patch
from small_decoder import CONTEXT

from qeffbuild.graph.files import save_graph
from qeffbuild.signature import IoSignature

ANSWER = 6


class Device:
    """A lowered graph with its states, in `rows` slots."""

    def __init__(
        self,
        model: ir.Model,
        signature: IoSignature,
        rows: int,
        folder: Path,
        context: int = CONTEXT,
        **sizes_of_others: int,
    ) -> None:
        patch(model)
        save_graph(model, folder / "graph.onnx")
        onnx.checker.check_model(str(folder / "graph.onnx"), full_check=True)
        self.session = ort.InferenceSession(folder / "graph.onnx", providers=["CPUExecutionProvider"])
        self.signature = signature
        # What memory holds before anything was written is anything.
        sizes: dict[int | str, Any] = {"batch_size": rows, "full_batch_size": rows, "ctx_len": context}
        sizes |= sizes_of_others
        sizes["sliding_window"] = next((state.window for state in signature.states if state.window), None)
        self.states = {
            state.name: np.full([sizes.get(axis, axis) for axis in state.axes], np.nan).astype(state.dtype)
            for state in signature.states
        }
        self.made: dict[str, np.ndarray] = {}

    def run(self, ids: Sequence[Sequence[int]], positions: Any, **more: np.ndarray) -> np.ndarray:
        made = self.feed(input_ids=np.array(ids), position_ids=np.array(positions), **more)
        return made.get("logits", next(iter(made.values())))

    def feed(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """One run by the names of inputs; all that comes out. States stay here."""
        names = [output.name for output in self.session.get_outputs()]
        made = dict(zip(names, self.session.run(None, {**inputs, **self.states}), strict=True))
        self.states = {state.name: made[state.output] for state in self.signature.states}
        self.made = made
        return made


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
