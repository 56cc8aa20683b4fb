"""A package loaded into ONNX Runtime: graphs run on buffers that are bound once and filled in place.

For each shape of the inputs there is one binding; a run copies the inputs into its buffers, runs, and hands out its
output buffers. Retained states never move: where the graph allows it, a state's input and output are the same memory;
elsewhere they are two buffers that change places. A graph with fused attention is run in parts where it cannot take
several rows at once (rows.py): the parts are bound to their rows of the same states.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qeffbuild.backends.onnxruntime import rows
from qeffbuild.backends.onnxruntime.buffers import shape_of, zeroed
from qeffbuild.backends.onnxruntime.loading import load_for_decoding, load_for_prompts, ort
from qeffbuild.package import Package
from qeffbuild.signature import IoSignature, State

log = logging.getLogger(__name__)

_BINDINGS = 16  # shapes whose buffers are kept per set of states, the least recently used goes first
_PROMPT = 24  # tokens of a row from which on the form for prompts is the faster one

Shapes = tuple[tuple[int, ...], ...]


def open_session(package: Package, *, threads: int | None = None, devices: Sequence[int] = ()) -> Session:
    """Loads every graph of the package, on the processor whatever the devices are.

    `threads` is per operator; None leaves it to ONNX Runtime: one per core.
    """
    graphs = {}
    for name, said in package.manifest["graphs"].items():
        signature, in_place = package.signature(name), frozenset(said.get("in_place", ()))
        graphs[name] = _Graph(
            session=load_for_decoding(package, said, signature, threads),
            prefill=load_for_prompts(package, said, threads) if "prefill" in said else None,
            signature=signature,
            names=tuple(tensor.name for tensor in signature.inputs),
            in_place=in_place,
            has_turns=len(in_place) < len(signature.states),
            rows_apart=said.get("rows_apart", False),
        )
    return Session(graphs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    session: ort.InferenceSession
    prefill: ort.InferenceSession | None  # the same graph in the form that is faster for prompts
    signature: IoSignature
    names: tuple[str, ...]  # of the inputs, states apart
    in_place: frozenset[str]  # states whose input and output may share memory
    has_turns: bool  # whether any state's may not, so that even and odd runs differ
    rows_apart: bool  # whether attention is fused, which takes one token of many rows or many of one

    def form(self, shapes: Shapes) -> ort.InferenceSession:
        """Who runs these. Where the logits of every token are wanted a text is scored, by the weights that decode."""
        if self.prefill is None:
            return self.session
        tokens, logits = (shapes[self.names.index(name)][-1] for name in (rows.POSITIONS, rows.INDEX))
        return self.prefill if tokens >= _PROMPT and tokens > logits else self.session


@dataclass(slots=True)
class States:
    """The retained states of some rows. `arrays` are their present contents, to be read, copied or zeroed in place."""

    batch_size: int
    ctx_len: int
    buffers: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]  # read by even runs and odd runs; mostly the same
    held: dict[str, np.ndarray] = field(default_factory=dict)  # what stays as it is from run to run
    turn: int = 0
    bindings: OrderedDict[tuple[Any, ...], _Binding] = field(default_factory=OrderedDict)
    outputs: OrderedDict[tuple[str, Shapes], dict[str, np.ndarray]] = field(default_factory=OrderedDict)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return self.buffers[self.turn]


class Session:
    """A package on this machine's processor. Not for two threads at once: its buffers are shared between runs."""

    any_length = True

    def __init__(self, graphs: Mapping[str, _Graph]) -> None:
        self._graphs = graphs

    def signature(self, graph: str) -> IoSignature:
        return self._graphs[graph].signature

    def allocate(self, graph: str, batch_size: int, ctx_len: int) -> States:
        """Zeroed states for `batch_size` rows of `ctx_len` slots."""
        loaded = self._graphs[graph]
        sizes = {"batch_size": batch_size, "ctx_len": ctx_len}
        first = zeroed(loaded.signature.states, sizes)
        moving = [state for state in loaded.signature.states if state.name not in loaded.in_place]
        second = first | zeroed(moving, sizes)
        return States(batch_size, ctx_len, (first, second))

    def hold(self, states: States, values: Mapping[str, np.ndarray]) -> None:
        """Keeps what runs with these states only read, until other values take its place."""
        for name, value in values.items():
            kept = states.held.get(name, states.arrays.get(name))
            if kept is not None and kept.shape == value.shape and kept.dtype == value.dtype:
                np.copyto(kept, value)
            else:
                states.held[name] = np.array(value)
                states.bindings.clear()

    def contents(self, states: States) -> Mapping[str, np.ndarray]:
        """The buffers that the next run reads."""
        return states.arrays

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], states: States) -> Mapping[str, np.ndarray]:
        """Runs once and updates the states. Outputs are views, good until the next run with the same shapes."""
        loaded = self._graphs[graph]
        if loaded.rows_apart and not rows.is_whole(inputs[rows.POSITIONS]):
            return _run_apart(loaded, inputs, states)
        binding = _binding(loaded, inputs, states, None)
        _run(binding, inputs)
        if loaded.has_turns:
            states.turn ^= 1
        return binding.outputs


@dataclass(frozen=True, slots=True)
class _Binding:
    run: Callable[[Any, Any], None]
    io: Any
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    unsized: Mapping[str, int]  # outputs whose size only the run tells, and their places: not bound to a buffer


def _run(binding: _Binding, inputs: Mapping[str, np.ndarray]) -> None:
    for name, buffer in binding.inputs.items():
        np.copyto(buffer, inputs[name], casting="same_kind")
    binding.run(binding.io._iobinding, None)
    if binding.unsized:
        made = binding.io.get_outputs()
        binding.outputs.update({name: made[place].numpy() for name, place in binding.unsized.items()})


def _run_apart(graph: _Graph, inputs: Mapping[str, np.ndarray], states: States) -> dict[str, np.ndarray]:
    """The same as one run, in parts. Rows that sit out keep their states bit for bit."""
    signature, whole = graph.signature, _outputs(graph, inputs, states)
    now, next_ = states.buffers[states.turn], states.buffers[states.turn ^ 1]
    moving = [state for state in signature.states if state.name not in graph.in_place]
    for state in moving:
        np.copyto(next_[state.name], now[state.name])
    for part in rows.parts(inputs[rows.POSITIONS]):
        share = rows.inputs_of(part, signature, inputs)
        binding = _binding(graph, share, states, part)
        kept = [(state, row, _touched(state, now, row).copy()) for row in part.idle for state in signature.states]
        _run(binding, share)
        for state, row, content in kept:
            _touched(state, next_, row)[...] = content
        rows.place_outputs(part, signature, binding.outputs, whole)
    if graph.has_turns:
        states.turn ^= 1
    return whole


def _touched(state: State, buffers: Mapping[str, np.ndarray], row: int) -> np.ndarray:
    """What a run writes of a row that has no token: slot 0, or all of a state without slots."""
    mine = buffers[state.name][row]
    return mine[(slice(None),) * (state.axes.index("ctx_len") - 1) + (0,)] if state.positional else mine


def _binding(graph: _Graph, inputs: Mapping[str, np.ndarray], states: States, part: rows.Part | None) -> _Binding:
    """The buffers for inputs of these shapes, bound the first time that they are met."""
    shapes = tuple([inputs[name].shape for name in graph.names])
    key = (graph.signature.graph, states.turn, part and (part.start, part.stop), shapes)
    if key in states.bindings:
        states.bindings.move_to_end(key)
        return states.bindings[key]
    states.bindings[key] = _bind(graph, shapes, states, part.rows if part else slice(None))
    if len(states.bindings) > _BINDINGS:
        states.bindings.popitem(last=False)
    return states.bindings[key]


def _bind(graph: _Graph, shapes: Shapes, states: States, rows: slice) -> _Binding:
    session = graph.form(shapes)
    signature, io = graph.signature, session.io_binding()
    inputs = {}
    for tensor, shape in zip(signature.inputs, shapes, strict=True):
        inputs[tensor.name] = np.zeros(shape, tensor.dtype)
        io.bind_ortvalue_input(tensor.name, _alias(inputs[tensor.name]))
    outputs, unsized = _make_outputs(graph, shapes, states, rows), {}
    for place, tensor in enumerate(signature.outputs):
        if tensor.name in outputs:
            io.bind_ortvalue_output(tensor.name, _alias(outputs[tensor.name]))
        else:
            unsized[tensor.name] = place
            io.bind_output(tensor.name, "cpu")
    for tensor in signature.held:
        io.bind_ortvalue_input(tensor.name, _alias(states.held[tensor.name][rows]))
    now, next_ = states.buffers[states.turn], states.buffers[states.turn ^ 1]
    for state in signature.states:
        io.bind_ortvalue_input(state.name, _alias(now[state.name][rows]))
        io.bind_ortvalue_output(state.output, _alias(next_[state.name][rows]))
    # The object behind InferenceSession: its own method looks each time for a device that a processor has not.
    return _Binding(session._sess.run_with_iobinding, io, inputs, outputs, unsized)


def _outputs(graph: _Graph, inputs: Mapping[str, np.ndarray], states: States) -> dict[str, np.ndarray]:
    """Where the parts of a run put what they give; made once for each shape."""
    shapes = tuple([inputs[name].shape for name in graph.names])
    key = (graph.signature.graph, shapes)
    if key not in states.outputs:
        if len(states.outputs) == _BINDINGS:
            states.outputs.popitem(last=False)
        states.outputs[key] = _make_outputs(graph, shapes, states, slice(None))
    return states.outputs[key]


def _make_outputs(graph: _Graph, shapes: Shapes, states: States, rows: slice) -> dict[str, np.ndarray]:
    """A buffer for each output whose size is known before the run."""
    sizes: dict[str, int] = {"batch_size": len(range(states.batch_size)[rows]), "ctx_len": states.ctx_len}
    for tensor, shape in zip(graph.signature.inputs, shapes, strict=True):
        sizes |= {axis: size for axis, size in zip(tensor.axes, shape, strict=True) if isinstance(axis, str)}
    sized = [tensor for tensor in graph.signature.outputs if all(isinstance(a, int) or a in sizes for a in tensor.axes)]
    return {tensor.name: np.zeros(shape_of(tensor.axes, sizes), tensor.dtype) for tensor in sized}


def _alias(array: np.ndarray) -> Any:
    """The array's own memory as ONNX Runtime sees it: what is written into one is in the other."""
    return ort.OrtValue.ortvalue_from_numpy(array)
