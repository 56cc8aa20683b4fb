"""A package loaded into ONNX Runtime: graphs run on buffers that are bound once and filled in place.

For each shape of the inputs there is one binding; a run copies the inputs into its buffers, runs, and hands out its
output buffers. Retained states never move: where the graph allows it, a state's input and output are the same memory;
elsewhere they are two buffers that change places.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qeffbuild.errors import AbsentError, BackendError
from qeffbuild.package import Package
from qeffbuild.signature import Axis, IoSignature

try:
    import onnxruntime as ort
except ImportError as cause:
    raise AbsentError("onnxruntime.absent", "onnxruntime cannot be imported", hint="pip install onnxruntime") from cause

log = logging.getLogger(__name__)

_BINDINGS = 16  # shapes whose buffers are kept per set of states, the least recently used goes first
_QUIET = 3  # ONNX Runtime's warnings are about its own rewriting; errors reach us as exceptions

Shapes = tuple[tuple[int, ...], ...]


def open_session(package: Package, *, threads: int | None = None) -> Session:
    """Loads every graph of the package. `threads` is per operator; None leaves it to ONNX Runtime: one per core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = _QUIET
    # Spinning gains a little on a machine of our own and costs everybody else a core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graphs = {}
    for name, said in package.manifest["graphs"].items():
        try:
            loaded = ort.InferenceSession(package.graph(name), options, providers=["CPUExecutionProvider"])
        # ONNX Runtime's exceptions have no common base but this.
        except Exception as cause:
            problem = str(cause).strip().splitlines()[0]
            raise BackendError(
                "backend.file",
                f"{said['file']}: onnxruntime does not load it: {problem}",
                where=str(package.path),
                hint="`qeffbuild verify` tells whether the package is damaged; else build it with this onnxruntime",
            ) from cause
        graphs[name] = _Graph(loaded, package.signature(name), frozenset(said.get("in_place", ())))
    return Session(graphs)


@dataclass(frozen=True, slots=True)
class _Graph:
    session: ort.InferenceSession
    signature: IoSignature
    in_place: frozenset[str]  # states whose input and output may share memory


@dataclass(slots=True)
class States:
    """The retained states of some rows. `arrays` are their present contents, to be read, copied or zeroed in place."""

    batch_size: int
    ctx_len: int
    buffers: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]  # read by even runs and odd runs; mostly the same
    turn: int = 0
    bindings: OrderedDict[tuple[str, int, Shapes], _Binding] = field(default_factory=OrderedDict)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return self.buffers[self.turn]


class Session:
    """A package on this machine's processor. Not for two threads at once: its buffers are shared between runs."""

    def __init__(self, graphs: Mapping[str, _Graph]) -> None:
        self._graphs = graphs

    def signature(self, graph: str) -> IoSignature:
        return self._graphs[graph].signature

    def allocate(self, graph: str, batch_size: int, ctx_len: int) -> States:
        """Zeroed states for `batch_size` rows of `ctx_len` slots."""
        loaded = self._graphs[graph]
        sizes = {"batch_size": batch_size, "ctx_len": ctx_len}
        first, second = {}, {}
        for state in loaded.signature.states:
            first[state.name] = np.zeros(_shape(state.axes, sizes), state.dtype)
            shared = state.name in loaded.in_place
            second[state.name] = first[state.name] if shared else np.zeros_like(first[state.name])
        return States(batch_size, ctx_len, (first, second))

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], states: States) -> dict[str, np.ndarray]:
        """Runs once and updates the states. Outputs are views, good until the next run with the same shapes."""
        loaded = self._graphs[graph]
        shapes = tuple(np.shape(inputs[tensor.name]) for tensor in loaded.signature.inputs)
        binding = _binding(loaded, shapes, states)
        for name, buffer in binding.inputs.items():
            np.copyto(buffer, inputs[name], casting="same_kind")
        loaded.session.run_with_iobinding(binding.io)
        states.turn ^= 1
        return binding.outputs


@dataclass(frozen=True, slots=True)
class _Binding:
    io: Any
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def _binding(graph: _Graph, shapes: Shapes, states: States) -> _Binding:
    """The buffers for inputs of these shapes, bound the first time that they are met."""
    # Where every state is updated in place, even and odd runs are the same.
    turn = 0 if len(graph.in_place) == len(graph.signature.states) else states.turn
    key = (graph.signature.graph, turn, shapes)
    if key in states.bindings:
        states.bindings.move_to_end(key)
        return states.bindings[key]
    states.bindings[key] = _bind(graph, shapes, states)
    if len(states.bindings) > _BINDINGS:
        states.bindings.popitem(last=False)
    return states.bindings[key]


def _bind(graph: _Graph, shapes: Shapes, states: States) -> _Binding:
    signature, io = graph.signature, graph.session.io_binding()
    sizes = {"batch_size": states.batch_size, "ctx_len": states.ctx_len}
    inputs, outputs = {}, {}
    for tensor, shape in zip(signature.inputs, shapes, strict=True):
        sizes |= {axis: size for axis, size in zip(tensor.axes, shape, strict=True) if isinstance(axis, str)}
        inputs[tensor.name] = np.zeros(shape, tensor.dtype)
        io.bind_ortvalue_input(tensor.name, _alias(inputs[tensor.name]))
    for tensor in signature.outputs:
        outputs[tensor.name] = np.zeros(_shape(tensor.axes, sizes), tensor.dtype)
        io.bind_ortvalue_output(tensor.name, _alias(outputs[tensor.name]))
    now, next_ = states.buffers[states.turn], states.buffers[states.turn ^ 1]
    for state in signature.states:
        io.bind_ortvalue_input(state.name, _alias(now[state.name]))
        io.bind_ortvalue_output(state.output, _alias(next_[state.name]))
    return _Binding(io, inputs, outputs)


def _alias(array: np.ndarray) -> Any:
    """The array's own memory as ONNX Runtime sees it: what is written into one is in the other."""
    return ort.OrtValue.ortvalue_from_numpy(array)


def _shape(axes: tuple[Axis, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes)
