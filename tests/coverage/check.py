"""One configuration -> what became of it: a small random model through the real steps, run beside PyTorch.

The reference is the model itself in PyTorch, eager and in float32. Rows of unlike length are prefilled whole, prefilled
in chunks, and decoded for 8 given tokens; logits are compared at every step, relative to their spread. Longer rows than
any window, chunk or block of a small model go in chunks, too. That is done with the portable graph, and where it is
asked for also in the session and the form that a package runs in.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, cast

import numpy as np
import onnx
import onnxruntime
import torch

from qeffbuild.backends.onnxruntime.lower import lower
from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower as lower_qaic
from qeffbuild.errors import QeffBuildError
from qeffbuild.export import export
from qeffbuild.export.decoder import without_cache
from qeffbuild.export.shrink import positions
from qeffbuild.export.skeleton import small_model
from qeffbuild.graph.chunked import NotChunked
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.loops import one_chunk
from qeffbuild.models.facts import read_facts
from qeffbuild.models.skeleton import compare, refuse_disagreement
from qeffbuild.models.tasks import CAUSAL
from qeffbuild.models.tiny import tiny_config
from qeffbuild.signature import IoSignature

VOCABULARY, END = 256, 2
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The tokens that are run: prompts, what follows each of them, slots of the cache and tokens of a chunk."""

    rows: tuple[tuple[int, ...], ...]
    decoded: tuple[int, ...]
    ctx_len: int
    chunk: int

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.rows]


def _long_row(length: int, step: int) -> tuple[int, ...]:
    return tuple(6 + place * step % 240 for place in range(length))


LONG = Text(rows=(_long_row(200, 37), _long_row(141, 91)), decoded=(101, 35, 222), ctx_len=300, chunk=77)
TEXT = Text(
    rows=((17, 230, 41, 99, 43, 180, 64, 57, 121, 55, 210, 33, 87), (140, 59, 77, 201, 118)),
    decoded=(101, 35, 222, 60, 143, 112, 190, 34),
    ctx_len=32,
    chunk=5,
)


# What a model says to each row of each text.
Said = list[list[np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    short: Text
    long: Text | None

    def within(self, most: int | None) -> Texts:
        """Without the long one, where a model has positions for so many tokens only."""
        fits = self.long is not None and (most is None or most >= self.long.ctx_len)
        return self if fits else Texts(short=self.short, long=None)

    def said_by(self, say: Callable[[Sequence[int], Sequence[int]], np.ndarray]) -> Said:
        texts = [text for text in (self.short, self.long) if text is not None]
        return [[say(row, text.decoded) for row in text.rows] for text in texts]


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
    noise: float = 0.0  # how far PyTorch itself is from float64, where that was asked

    def holds(self) -> bool:
        most = max(TOLERANCE, 2 * self.noise)
        return self.stage == "done" and self.tokens_equal and max(self.errors.values()) < most

    def runs_in_transformers(self) -> bool:
        return self.stage not in ("configuration", "model", "reference")


def check(model_type: str, folder: Path) -> Check:
    """Everything about one type; what goes wrong is written down, not raised."""
    return check_configuration(model_type, lambda: tiny_config(model_type, VOCABULARY, END), folder, long=LONG)


def check_configuration(
    model_type: str,
    make: Callable[[], Any],
    folder: Path,
    text: Text = TEXT,
    *,
    as_packaged: bool = False,
    written: Mapping[str, Any] | None = None,
    long: Text | None = None,
) -> Check:
    """The same for the configuration that `make` makes; `as_packaged` asks for the session of a package, too.

    `written` is config.json in words of its own, and says in which dtype the weights are stored. `long` is run where
    the model has positions for it.
    """
    torch.set_num_threads(1)
    said = Check(model_type)
    try:
        _run(said, make(), folder, Texts(short=text, long=long), as_packaged, written or {})
    except QeffBuildError as problem:
        said.reason = problem.message
    except Exception as problem:
        said.reason = reason_of(problem)
    return said


def reason_of(problem: Exception) -> str:
    """Its kind and its first line."""
    first = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {first[0] if first else ''}"


def _run(said: Check, config: Any, folder: Path, texts: Texts, as_packaged: bool, written: Mapping[str, Any]) -> None:
    said.stage = "model"
    model = small_model(config)
    stored = _stored(model, getattr(torch, str(written.get("dtype") or "float32")))
    said.model_class = type(model).__name__
    said.stage = "reference"
    texts = texts.within(positions(config))
    wanted = texts.said_by(partial(_reference, model))
    said.stage = "facts"
    stored.save_pretrained(folder)
    config.save_pretrained(folder)  # a text model of several parts would be saved as one of its own type
    if written:
        (folder / "config.json").write_text(json.dumps({**written, "architectures": [said.model_class]}))
    facts = read_facts(folder, task=CAUSAL)
    refuse_disagreement(folder, compare(folder, facts))
    said.stage = "export"
    report = export(facts.as_json(), folder)
    said.mechanism = report.recipe
    texts = texts.within(report.longest_context)
    signature = IoSignature.load(folder / "io.json")
    said.states = sorted({state.kind for state in signature.states})
    said.qaic = _lowered_for_qaic(folder, signature)
    said.stage = "lower"
    runners: list[Runner] = [Portable(folder, signature)]
    if as_packaged:
        runners.append(Packaged(folder, signature))
    said.stage = "run"
    _compare_all(said, runners, wanted, texts)
    said.stage = "done"
    if not said.holds():
        _ask_again(said, model, runners, wanted, texts)


def _compare_all(said: Check, runners: list[Runner], wanted: Said, texts: Texts) -> None:
    for runner in runners:
        _compare(said, runner, wanted[0], texts.short)
        if texts.long is not None:
            _compare_long(said, runner, wanted[1], texts.long)


def _ask_again(said: Check, model: Any, runners: list[Runner], wanted: Said, texts: Texts) -> None:
    """Whether PyTorch says the same with a cache as without, and in float64 as in float32."""
    if said.tokens_equal:
        exact = texts.said_by(partial(_exactly, model))
        said.noise = _apart(wanted, exact)
        said.reason = f"PyTorch's float32 is itself {said.noise:.0e} from its float64"
    if not said.holds():
        # Some models say something else with a cache than without; then what they say with it is what is wanted.
        again = Check(said.model_type, stage="done")
        cached = texts.said_by(partial(_cached, model))
        _compare_all(again, runners, cached, texts)
        if again.holds():
            said.errors, said.tokens_equal = again.errors, True
            said.reason = f"PyTorch itself differs by {_apart(cached, wanted):.0e} with and without its cache"


def _apart(some: Said, others: Said) -> float:
    pairs = zip(itertools.chain(*some), itertools.chain(*others), strict=True)
    return max(_error(ours, theirs) for ours, theirs in pairs)


@torch.no_grad()
def _stored(model: Any, dtype: torch.dtype) -> Any:
    """The model as its file has it; where that is narrower, the model itself gets what is left of its weights."""
    if dtype == torch.float32:
        return model
    narrow = copy.deepcopy(model).to(dtype)
    model.load_state_dict(narrow.state_dict())
    return narrow


@torch.no_grad()
def _reference(model: Any, row: Sequence[int], decoded: Sequence[int]) -> np.ndarray:
    return model(input_ids=torch.tensor([[*row, *decoded]]), **without_cache(model)).logits[0].numpy()


@torch.no_grad()
def _exactly(model: Any, row: Sequence[int], decoded: Sequence[int]) -> np.ndarray:
    wide = copy.deepcopy(model).double()
    for module in wide.modules():
        if hasattr(module, "config"):
            module.config._experts_implementation_internal = "eager"
    return wide(input_ids=torch.tensor([[*row, *decoded]]), **without_cache(wide)).logits[0].numpy()


@torch.no_grad()
def _cached(model: Any, prompt: Sequence[int], decoded: Sequence[int]) -> np.ndarray:
    out = model(input_ids=torch.tensor([prompt]), use_cache=True)
    said = [out.logits[0]]
    name = next(n for n in ("past_key_values", "cache_params", "state", "mems") if getattr(out, n, None) is not None)
    for token in decoded:
        past = {name: getattr(out, name)}
        out = model(input_ids=torch.tensor([[token]]), use_cache=True, **past)
        said.append(out.logits[0])
    return torch.cat(said).numpy()


def _lowered_for_qaic(folder: Path, signature: IoSignature) -> str:
    """Nothing where the graph has the compiler's form, "runs of N" where it has it for short ones, else why not."""
    path = folder / "graph.onnx"
    why = _refused(path, signature, Form())
    if not why or any(state.kind == "token" for state in signature.states):
        return why
    try:
        longest = one_chunk(load_graph(path).graph)
    except NotChunked:
        longest = 1
    return _refused(path, signature, Form(longest_run=longest)) or f"runs of {longest}"


def _refused(path: Path, signature: IoSignature, form: Form) -> str:
    """Why a graph does not take the form; nothing where it does."""
    try:
        lower_qaic(load_graph(path), signature, form)
    except QeffBuildError as problem:
        return problem.message
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"[:200]
    return ""


class Runner(Protocol):
    def begin(self, rows: int, ctx_len: int) -> None: ...

    def step(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> np.ndarray:
        """Logits at every token of right-padded rows."""


class Portable:
    """A graph of standard operators, with its states."""

    def __init__(self, folder: Path, signature: IoSignature) -> None:
        graph = load_graph(folder / "graph.onnx")
        lower(graph, signature, attention="portable")
        save_graph(graph, folder / "lowered.onnx")
        onnx.checker.check_model(str(folder / "lowered.onnx"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        file = folder / "lowered.onnx"
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.signature = signature
        self.states: dict[str, np.ndarray] = {}

    def begin(self, rows: int, ctx_len: int) -> None:
        sizes = {"batch_size": rows, "ctx_len": ctx_len}
        self.states = {
            state.name: np.zeros([sizes.get(axis, axis) for axis in state.axes], state.dtype)
            for state in self.signature.states
        }

    def step(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> np.ndarray:
        logits, *after = self.session.run(None, {**_feed(rows, starts), **self.states})
        self.states = {state.name: value for state, value in zip(self.signature.states, after, strict=True)}
        return logits


class Packaged:
    """The graph as `attention: auto` lowers it, in the session that runs packages."""

    def __init__(self, folder: Path, signature: IoSignature) -> None:
        graph = load_graph(folder / "graph.onnx")
        lowered = lower(graph, signature, attention="auto")
        save_graph(graph, folder / "packaged.onnx")
        onnx.checker.check_model(str(folder / "packaged.onnx"))
        said = {"file": "packaged.onnx", "in_place": lowered["in_place"], "rows_apart": lowered["rows_apart"]}
        package = SimpleNamespace(
            manifest={"graphs": {signature.graph: said}}, path=folder, signature=lambda graph: signature
        )
        self.session = open_session(cast(Any, package), threads=1)
        self.graph = signature.graph
        self.states: Any = None

    def begin(self, rows: int, ctx_len: int) -> None:
        self.states = self.session.allocate(self.graph, rows, ctx_len)

    def step(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> np.ndarray:
        return self.session.run(self.graph, _feed(rows, starts), self.states)["logits"]


def _feed(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> dict[str, np.ndarray]:
    width = max(map(len, rows))
    ids, positions = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), -1, np.int64)
    for row, (tokens, start) in enumerate(zip(rows, starts, strict=True)):
        ids[row, : len(tokens)] = tokens
        positions[row, : len(tokens)] = np.arange(start, start + len(tokens))
    index = np.tile(np.arange(width), (len(rows), 1))
    return {"input_ids": ids, "position_ids": positions, "logits_index": index}


def _compare(said: Check, runner: Runner, wanted: list[np.ndarray], text: Text) -> None:
    lengths, count = text.lengths, len(text.rows)
    equal = [said.tokens_equal] if said.errors else []

    def note(kind: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        said.errors[kind] = max(said.errors.get(kind, 0.0), _error(ours, theirs))
        equal.append(bool((ours.argmax(-1) == theirs.argmax(-1)).all()))

    runner.begin(1, text.ctx_len)
    note("prefill", runner.step([text.rows[0]], [0])[0], wanted[0][: lengths[0]])
    runner.begin(count, text.ctx_len)
    logits = runner.step(text.rows, [0] * count)
    for row, length in enumerate(lengths):
        note("ragged", logits[row, :length], wanted[row][:length])
    for step, token in enumerate(text.decoded):
        logits = runner.step([[token]] * count, [length + step for length in lengths])
        for row, length in enumerate(lengths):
            note("decode", logits[row, 0], wanted[row][length + step])
    for ours, theirs in _in_chunks(runner, wanted, text, text.decoded[:1]):
        note("chunked", ours, theirs)
    said.tokens_equal = all(equal)


def _compare_long(said: Check, runner: Runner, wanted: list[np.ndarray], text: Text) -> None:
    for ours, theirs in _in_chunks(runner, wanted, text, text.decoded):
        said.errors["long"] = max(said.errors.get("long", 0.0), _error(ours, theirs))
        said.tokens_equal &= bool((ours.argmax(-1) == theirs.argmax(-1)).all())


def _in_chunks(
    runner: Runner, wanted: list[np.ndarray], text: Text, decoded: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Logits beside those that are wanted: of the prompt's chunks, the last of which hold nothing for shorter rows,
    and of single tokens behind it."""
    lengths, count = text.lengths, len(text.rows)
    runner.begin(count, text.ctx_len)
    for start in range(0, max(lengths), text.chunk):
        chunk = [row[start : start + text.chunk] for row in text.rows]
        logits = runner.step(chunk, [start] * count)
        for row, tokens in enumerate(chunk):
            if tokens:
                yield logits[row, : len(tokens)], wanted[row][start : start + len(tokens)]
    for step, token in enumerate(decoded):
        logits = runner.step([[token]] * count, [length + step for length in lengths])
        for row, length in enumerate(lengths):
            yield logits[row, 0], wanted[row][length + step]


def _error(ours: np.ndarray, wanted: np.ndarray) -> float:
    error = float(np.abs(ours - wanted).max() / wanted.std())
    return error if np.isfinite(error) else 1e9


def as_json(said: Check) -> str:
    return json.dumps({name: getattr(said, name) for name in Check.__slots__})
