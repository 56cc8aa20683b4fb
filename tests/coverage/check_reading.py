"""One type and one task other than going on with a text -> what became of it: a small random model beside PyTorch.

The reference is the model itself in PyTorch, eager and in float32, one row at a time. The graphs that a package would
hold get the rows alone and together, padded; an encoder-decoder goes on for 8 given tokens, in chunks and one by one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from check import reason_of

from qeffbuild.backends.onnxruntime.lower import lower
from qeffbuild.errors import QeffBuildError
from qeffbuild.export import tasks
from qeffbuild.export.encoder import listener, pool
from qeffbuild.export.skeleton import small_model
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graphs import Member, members
from qeffbuild.models.classes import model_from
from qeffbuild.models.facts import read_facts
from qeffbuild.models.tasks import CLASSIFICATION, CTC, EMBEDDING, SPEECH, TEXT
from qeffbuild.models.tiny import tiny_config

VOCABULARY, END = 256, 2
TOLERANCE = 1e-4
POOLINGS = ("mean", "max", "cls", "last", "none")
LENGTHS = (13, 5, 1, 45)  # the last one is longer than the windows and blocks of the small models
SOUNDS = {"input_values": (4800, 6400, 8000), "input_features": (96, 133, 200)}
HEARD = {"input_values": (6400, 9123), "input_features": (290, 517)}  # where a model hears any length
DECODED = (101, 35, 222, 60, 143, 112, 190, 34)
CTX_LEN = 16

Feed = dict[str, np.ndarray]


@dataclass(slots=True)
class Check:
    """`stage` is the last one that was begun; "done" where all was compared. Errors are relative to results' spread."""

    model_type: str
    task: str
    pooling: str = ""
    stage: str = "configuration"
    reason: str = ""
    model_class: str = ""
    mechanism: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    tokens_equal: bool = True

    def holds(self) -> bool:
        return self.stage == "done" and self.tokens_equal and max(self.errors.values()) < TOLERANCE

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def check_reading(model_type: str, task: str, folder: Path, pooling: str = "") -> Check:
    """Everything about one type and task; what goes wrong is written down, not raised."""
    torch.set_num_threads(1)
    said = Check(model_type, task, pooling)
    try:
        _run(said, folder)
    except QeffBuildError as problem:
        said.reason = problem.message
    except Exception as problem:
        said.reason = reason_of(problem)
    return said


@torch.no_grad()
def _run(said: Check, folder: Path) -> None:
    config = tiny_config(said.model_type, VOCABULARY, END, task=said.task)
    said.stage = "model"
    model = small_model(config, partial(model_from, task=said.task, dtype=torch.float32, attn_implementation="eager"))
    said.model_class = type(model).__name__
    said.stage = "reference"
    model.save_pretrained(folder)  # and read again: what a rule gives is in no file
    model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.save_pretrained(folder)  # a rule may write over what it has read: Youtu's, over the row of padding
    said.stage = "export" if said.task == SPEECH else said.stage  # which inputs it takes is what export finds out
    rows, wanted = _that_pytorch_runs(said, model, _rows(said.task, model))
    said.stage = "facts"
    facts = read_facts(folder, task=said.task)
    said.stage = "export"
    report = tasks.export(facts.as_json(), folder, pooling=said.pooling or "auto")
    said.mechanism = "attention interface" if report.attention == "qeffbuild" else "own attention"
    said.mechanism += "" if report.reading == "at once" else f", {report.reading}"
    said.stage = "lower"
    graphs = {member.name: Graph(member) for member in members(folder)}
    said.stage = "run"
    if said.task in (TEXT, SPEECH):
        _compare_decoding(said, graphs, rows, wanted)
    else:
        _compare(said, graphs["encoder"], rows, wanted)
    said.stage = "done"


class Graph:
    """One graph, lowered as a package has it."""

    def __init__(self, member: Member) -> None:
        graph = load_graph(member.graph)
        lower(graph, member.signature, attention="portable")  # the others take rows apart, which a session does
        file = member.folder / f"lowered.{member.name}.onnx"
        save_graph(graph, file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.signature = member.signature
        self.taken = {tensor.name for tensor in self.session.get_inputs()}

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return self.session.run(None, {name: value for name, value in feed.items() if name in self.taken})


def _rows(task: str, model: Any) -> list[Feed]:
    chance = np.random.default_rng(1)
    if task in (CTC, SPEECH):
        from qeffbuild.export.sound import silence, sound_of

        (sound,), lengths = (listener(model).inputs, SOUNDS) if task == CTC else ((sound_of(model),), HEARD)
        shapes = [silence(sound, length).shape for length in lengths[sound.name]]
        return [{sound.name: chance.normal(size=shape).astype(np.float32)} for shape in shapes]
    texts = [np.append(chance.integers(10, VOCABULARY - 10, length - 1), END)[None] for length in LENGTHS]
    return [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in texts]


def _that_pytorch_runs(said: Check, model: Any, rows: list[Feed]) -> tuple[list[Feed], list[np.ndarray]]:
    """Some models refuse a text of one token, or one that is longer than they are wide."""
    found: list[tuple[Feed, np.ndarray]] = []
    for row in rows:
        try:
            found.append((row, _reference(said, model, row)))
        except Exception:
            if row is rows[0]:
                raise
    return [row for row, _ in found], [result for _, result in found]


def _reference(said: Check, model: Any, row: Feed) -> np.ndarray:
    given: dict[str, Any] = {name: torch.from_numpy(value) for name, value in row.items()}
    if said.task in (TEXT, SPEECH):
        return model(**given, decoder_input_ids=torch.tensor([DECODED]), use_cache=False).logits[0].numpy()
    if said.task == EMBEDDING:
        return pool(model(**given)[0], given["attention_mask"], said.pooling)[0].numpy()
    return model(**given).logits[0].numpy()


def _note(said: Check, kind: str, ours: np.ndarray, wanted: np.ndarray, spread: float) -> None:
    error = float(np.abs(ours - wanted).max() / spread)
    said.errors[kind] = max(said.errors.get(kind, 0.0), error if np.isfinite(error) else 1e9)
    if said.task not in (EMBEDDING, CLASSIFICATION):
        said.tokens_equal &= bool((ours.argmax(-1) == wanted.argmax(-1)).all())


def _spread(wanted: Sequence[np.ndarray]) -> float:
    """Of all rows together: a label's two logits may lie close to one another."""
    return float(np.concatenate([result.reshape(-1) for result in wanted]).std().clip(1e-3))


def _compare(said: Check, graph: Graph, rows: Sequence[Feed], wanted: Sequence[np.ndarray]) -> None:
    spread = _spread(wanted)
    for row, result in zip(rows, wanted, strict=True):
        _note(said, "alone", graph.run(_with_types(row, len(row)))[0][0], result, spread)
    if "attention_mask" in graph.taken:  # else what follows a sound or a text changes it: those go one by one
        for ours, result in zip(graph.run(_with_types(_together(rows), len(rows)))[0], wanted, strict=True):
            _note(said, "ragged", ours[: len(result)] if said.pooling == "none" else ours, result, spread)


def _with_types(feed: Feed, rows: int) -> Feed:
    return {**feed, "token_type_ids": np.zeros_like(feed["input_ids"])} if "input_ids" in feed else feed


def _together(rows: Sequence[Feed]) -> Feed:
    longest = max(row["input_ids"].shape[1] for row in rows) if "input_ids" in rows[0] else 0
    return {
        name: np.concatenate(
            [np.pad(row[name], ((0, 0), (0, longest - row[name].shape[1]))) if longest else row[name] for row in rows]
        )
        for name in rows[0]
    }


def _compare_decoding(
    said: Check, graphs: Mapping[str, Graph], rows: Sequence[Feed], wanted: Sequence[np.ndarray]
) -> None:
    spread = _spread(wanted)
    for kind, cuts in (("chunked", (0, 3, 8)), ("decode", (0, 1, 2, 3, 4, 5, 6, 7, 8))):
        for given, results in [([row], [result]) for row, result in zip(rows, wanted, strict=True)] + [(rows, wanted)]:
            held = _held(graphs, given)
            for place, ours in _decoded(graphs["decoder"], held, len(given), cuts):
                for row, result in enumerate(results):
                    _note(said, kind, ours[row], result[place], spread)


def _held(graphs: Mapping[str, Graph], rows: Sequence[Feed]) -> Feed:
    """What a decoder reads: texts go through the encoder together and padded, sounds one by one."""
    names = [tensor.name for tensor in graphs["decoder"].signature.held]
    if "attention_mask" in rows[0]:
        feed = _together(rows)
        return dict(zip(names, [*graphs["encoder"].run(feed), feed["attention_mask"]], strict=True))
    heard = [graphs["encoder"].run(row) for row in rows]
    lengths = [cross[0].shape[2] for cross in heard]
    cross = [
        np.concatenate([np.pad(a, ((0, 0), (0, 0), (0, max(lengths) - a.shape[2]), (0, 0))) for a in column])
        for column in zip(*heard, strict=True)
    ]
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return dict(zip(names, [*cross, mask], strict=False))


def _decoded(decoder: Graph, held: Feed, rows: int, cuts: Sequence[int]) -> Any:
    sizes = {"batch_size": rows, "ctx_len": CTX_LEN}
    states = {s.name: np.zeros([sizes.get(a, a) for a in s.axes], s.dtype) for s in decoder.signature.states}
    for start, stop in itertools.pairwise(cuts):
        ids = np.tile(np.array(DECODED[start:stop]), (rows, 1))
        positions = np.tile(np.arange(start, stop), (rows, 1))
        feed = {"input_ids": ids, "position_ids": positions, "logits_index": positions - start, **states, **held}
        logits, *after = decoder.run(feed)
        states = dict(zip(states, after, strict=True))
        yield slice(start, stop), logits


def as_line(said: Check) -> str:
    return json.dumps(said.as_json())
