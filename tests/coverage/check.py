"""One model type -> what became of it: a small random model through the real steps, run beside PyTorch.

The reference is the model itself in PyTorch, eager and in float32. Rows of 13 and 5 tokens are prefilled whole, prefilled
in chunks of 5, and decoded for 8 given tokens; logits are compared at every step, relative to their spread.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from qeffbuild.backends.onnxruntime.lower import lower
from qeffbuild.cloud_ai_100.lower import Form
from qeffbuild.cloud_ai_100.lower import lower as lower_qaic
from qeffbuild.errors import QeffBuildError
from qeffbuild.export import export
from qeffbuild.export.decoder import without_cache
from qeffbuild.export.skeleton import small_model
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.models.facts import read_facts
from qeffbuild.models.skeleton import compare, refuse_disagreement
from qeffbuild.models.tasks import CAUSAL
from qeffbuild.models.tiny import tiny_config
from qeffbuild.signature import IoSignature

VOCABULARY, END, CTX_LEN, CHUNK = 256, 2, 32, 5
ROWS = ([17, 230, 41, 99, 43, 180, 64, 57, 121, 55, 210, 33, 87], [140, 59, 77, 201, 118])
DECODED = [101, 35, 222, 60, 143, 112, 190, 34]
TOLERANCE = 1e-4


@dataclass(slots=True)
class Check:
    """`stage` is the last one that was begun; "done" where all was compared. Errors are relative to logits' spread."""

    model_type: str
    stage: str = "configuration"
    reason: str = ""
    model_class: str = ""
    mechanism: str = ""
    states: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    tokens_equal: bool = False
    qaic: str = ""

    def holds(self) -> bool:
        return self.stage == "done" and self.tokens_equal and max(self.errors.values()) < TOLERANCE

    def runs_in_transformers(self) -> bool:
        return self.stage not in ("configuration", "model", "reference")


def check(model_type: str, folder: Path) -> Check:
    """Everything about one type; what goes wrong is written down, not raised."""
    torch.set_num_threads(1)
    said = Check(model_type)
    try:
        _run(said, folder)
    except QeffBuildError as problem:
        said.reason = problem.message
    except Exception as problem:
        first = str(problem).strip().splitlines()
        said.reason = f"{type(problem).__name__}: {first[0] if first else ''}"
    return said


def _run(said: Check, folder: Path) -> None:
    config = tiny_config(said.model_type, VOCABULARY, END)
    said.stage = "model"
    model = small_model(config)
    said.model_class = type(model).__name__
    said.stage = "reference"
    rows = [[*row, *DECODED] for row in ROWS]
    wanted = [_reference(model, row) for row in rows]
    said.stage = "facts"
    model.save_pretrained(folder)
    config.save_pretrained(folder)  # a text model of several parts would be saved as one of its own type
    facts = read_facts(folder, task=CAUSAL)
    refuse_disagreement(folder, compare(folder, facts))
    said.stage = "export"
    report = export(facts.as_json(), folder)
    said.mechanism = report.recipe
    signature = IoSignature.load(folder / "io.json")
    said.states = sorted({state.kind for state in signature.states})
    said.qaic = _lowered_for_qaic(folder, signature)
    said.stage = "lower"
    session = _session(folder, signature)
    said.stage = "run"
    _compare(said, _Runner(session, signature), wanted)
    said.stage = "done"
    if not said.holds():
        # Some models say something else with a cache than without; then what they say with it is what is wanted.
        again = Check(said.model_type, stage="done")
        _compare(again, _Runner(session, signature), [_cached(model, row, len(row) - len(DECODED)) for row in rows])
        if again.holds():
            said.errors, said.tokens_equal = again.errors, True
            said.reason = f"PyTorch itself differs by {_difference(model, rows, wanted):.0e} with and without its cache"


@torch.no_grad()
def _reference(model: Any, row: list[int]) -> np.ndarray:
    return model(input_ids=torch.tensor([row]), **without_cache(model)).logits[0].numpy()


@torch.no_grad()
def _cached(model: Any, row: list[int], prompt: int) -> np.ndarray:
    out = model(input_ids=torch.tensor([row[:prompt]]), use_cache=True)
    said = [out.logits[0]]
    name = next(n for n in ("past_key_values", "cache_params", "state", "mems") if getattr(out, n, None) is not None)
    for token in row[prompt:]:
        past = {name: getattr(out, name)}
        out = model(input_ids=torch.tensor([[token]]), use_cache=True, **past)
        said.append(out.logits[0])
    return torch.cat(said).numpy()


def _difference(model: Any, rows: list[list[int]], wanted: list[np.ndarray]) -> float:
    cached = [_cached(model, row, len(row) - len(DECODED)) for row in rows]
    return max(_error(ours, theirs) for ours, theirs in zip(cached, wanted, strict=True))


def _lowered_for_qaic(folder: Path, signature: IoSignature) -> str:
    try:
        lower_qaic(load_graph(folder / "graph.onnx"), signature, Form())
    except QeffBuildError as problem:
        return problem.message
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"[:200]
    return ""


def _session(folder: Path, signature: IoSignature) -> onnxruntime.InferenceSession:
    graph = load_graph(folder / "graph.onnx")
    lower(graph, signature, attention="portable")
    save_graph(graph, folder / "lowered.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(folder / "lowered.onnx", options, providers=["CPUExecutionProvider"])


class _Runner:
    """A graph with its states."""

    def __init__(self, session: onnxruntime.InferenceSession, signature: IoSignature) -> None:
        self.session, self.signature = session, signature
        self.states: dict[str, np.ndarray] = {}

    def begin(self, rows: int) -> None:
        sizes = {"batch_size": rows, "ctx_len": CTX_LEN}
        self.states = {
            state.name: np.zeros([sizes.get(axis, axis) for axis in state.axes], state.dtype)
            for state in self.signature.states
        }

    def step(self, rows: list[list[int]], starts: list[int]) -> np.ndarray:
        """Logits at every token of right-padded rows."""
        width = max(map(len, rows))
        ids, positions = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), -1, np.int64)
        for row, (tokens, start) in enumerate(zip(rows, starts, strict=True)):
            ids[row, : len(tokens)] = tokens
            positions[row, : len(tokens)] = np.arange(start, start + len(tokens))
        index = np.tile(np.arange(width), (len(rows), 1))
        feed = {"input_ids": ids, "position_ids": positions, "logits_index": index, **self.states}
        logits, *after = self.session.run(None, feed)
        self.states = {state.name: value for state, value in zip(self.signature.states, after, strict=True)}
        return logits


def _compare(said: Check, runner: _Runner, wanted: list[np.ndarray]) -> None:
    lengths = [len(row) for row in ROWS]
    equal = []

    def note(kind: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        said.errors[kind] = max(said.errors.get(kind, 0.0), _error(ours, theirs))
        equal.append(bool((ours.argmax(-1) == theirs.argmax(-1)).all()))

    runner.begin(1)
    note("prefill", runner.step([ROWS[0]], [0])[0], wanted[0][: lengths[0]])
    runner.begin(2)
    logits = runner.step([*ROWS], [0, 0])
    for row, length in enumerate(lengths):
        note("ragged", logits[row, :length], wanted[row][:length])
    for step, token in enumerate(DECODED):
        logits = runner.step([[token], [token]], [length + step for length in lengths])
        for row, length in enumerate(lengths):
            note("decode", logits[row, 0], wanted[row][length + step])
    # In chunks, the second and third of which hold nothing for the shorter row.
    runner.begin(2)
    for start in range(0, lengths[0], CHUNK):
        chunk = [row[start : start + CHUNK] for row in ROWS]
        logits = runner.step(chunk, [start, start])
        for row, tokens in enumerate(chunk):
            if tokens:
                note("chunked", logits[row, : len(tokens)], wanted[row][start : start + len(tokens)])
    logits = runner.step([DECODED[:1]] * 2, lengths)
    for row, length in enumerate(lengths):
        note("chunked", logits[row, 0], wanted[row][length])
    said.tokens_equal = all(equal)


def _error(ours: np.ndarray, wanted: np.ndarray) -> float:
    error = float(np.abs(ours - wanted).max() / wanted.std())
    return error if np.isfinite(error) else 1e9


def as_json(said: Check) -> str:
    return json.dumps({name: getattr(said, name) for name in Check.__slots__})
