"""Lowered graph, weights and a text -> between which numbers the activations of its matrix products lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.backends.qnn.htp.products import activations
from qeffbuild.backends.qnn.htp.provider import open_reference
from qeffbuild.errors import BackendError
from qeffbuild.executor.work import Work
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graph.write import write_weights
from qeffbuild.models.tokenizer import load_tokenizer
from qeffbuild.signature import IoSignature

_TOKENS = 512  # of the text: ranges hardly grow after that


def run(work: Work) -> None:
    stage = work.out / "stage"
    stage.mkdir()
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))
    tokens = _tokens(work.leaves["text"], checkpoint.path, _TOKENS)
    model = load_graph(work.inputs["graph"] / "graph.onnx")
    weights = Weights(Folder(work.inputs["graph"]), Folder(work.inputs["exported"]), checkpoint)
    write_weights(model, weights, stage / "graph.data", work.progress)
    names = watch(model)
    save_graph(model, stage / "graph.onnx")
    signature = IoSignature.load(work.inputs["graph"] / "io.json")
    sizes = {name: work.params[name] for name in ("seq_len", "ctx_len")}
    ranges = measure(open_reference(stage / "graph.onnx"), signature, names, tokens, sizes)
    shutil.rmtree(stage)
    said = {"schema": 1, "tokens": len(tokens), "ranges": ranges}
    (work.out / "ranges.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def watch(model: ir.Model) -> list[str]:
    """The graph tells the least and the largest of each activation, as outputs NAME.least and NAME.most."""
    graph = model.graph
    emit = Emitter(graph, "watch")
    watched = activations(graph)
    for name, value in watched.items():
        for end, op_type in (("least", "ReduceMin"), ("most", "ReduceMax")):
            told = emit(op_type, value, keepdims=0)
            told.name, told.shape, told.type = f"{name}.{end}", ir.Shape([]), ir.TensorType(ir.DataType.FLOAT)
            graph.outputs.append(told)
    graph.extend(emit.waiting())
    return list(watched)


def measure(
    session: Any, signature: IoSignature, names: list[str], tokens: list[int], sizes: dict[str, int]
) -> dict[str, list[float]]:
    ends = [f"{name}.{end}" for name in names for end in ("least", "most")]
    kept = {state.output: state.name for state in signature.states}
    found = np.array([[np.inf, -np.inf]] * len(names))
    for feed, fresh in _chunks(tokens, sizes):
        if fresh:
            states = {
                state.name: np.zeros([_size(axis, sizes) for axis in state.axes], state.dtype)
                for state in signature.states
            }
        values = session.run([*ends, *kept], {**feed, **states})
        states = dict(zip(kept.values(), values[len(ends) :], strict=True))
        told = np.array(values[: len(ends)], np.float64).reshape(-1, 2)
        found[:, 0], found[:, 1] = np.minimum(found[:, 0], told[:, 0]), np.maximum(found[:, 1], told[:, 1])
    return {name: [float(least), float(most)] for name, (least, most) in zip(names, found, strict=True)}


def _chunks(tokens: list[int], sizes: dict[str, int]) -> Iterator[tuple[dict[str, np.ndarray], bool]]:
    """One row of `seq_len` tokens after the other, and whether a new context begins with it."""
    for begin in range(0, len(tokens), sizes["ctx_len"]):
        window = tokens[begin : begin + sizes["ctx_len"]]
        for at in range(0, len(window), sizes["seq_len"]):
            ids = np.array([window[at : at + sizes["seq_len"]]], np.int64)
            positions = np.arange(at, at + ids.shape[1])[None]
            yield {"input_ids": ids, "position_ids": positions, "logits_index": positions - at}, at == 0


def _size(axis: int | str, sizes: dict[str, int]) -> int:
    return axis if isinstance(axis, int) else sizes["ctx_len"] if axis == "ctx_len" else 1


def _tokens(text: Path, model: Path, most: int) -> list[int]:
    try:
        said = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise BackendError("backend.file", f"backend.calibration_file: {text.name} is not readable text") from cause
    # A character is rarely more than one token, so that a long text need not be cut whole.
    tokens = load_tokenizer(model)(said[: most * 8], add_special_tokens=False)["input_ids"][:most]
    if not tokens:
        raise BackendError("backend.file", f"backend.calibration_file: {text.name} has no token", hint="give some text")
    return tokens
