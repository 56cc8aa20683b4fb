"""A graph and the inputs of some rows -> its outputs, run piece by piece: never more than a few weights are in memory.

All rows go through a piece, with all their runs in turn, before the next one is loaded; states pass from run to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from qeffbuild.calibration.pieces import Runner, names, piece_of, read_by
from qeffbuild.graph.fold import compute, foldable_values, sources
from qeffbuild.graph.ops import lower_portable
from qeffbuild.graph.weights import Weights
from qeffbuild.graph.widen import is_narrow, widen
from qeffbuild.signature import IoSignature

Arrays = dict[str, np.ndarray]
Watch = Callable[[int, int, str, np.ndarray], None]  # row, run, name of a value, its content

MOST_WEIGHTS = 64 << 20  # numbers' bytes of one piece, unless one tensor alone is larger


@dataclass(slots=True)
class Row:
    """The inputs of each run of one row, and its states as the runs leave them."""

    runs: Sequence[Mapping[str, np.ndarray]]
    states: Arrays
    live: list[Arrays] = field(default_factory=list)
    outputs: list[Arrays] = field(default_factory=list)


def stream(
    model: ir.Model, signature: IoSignature, weights: Weights, rows: Sequence[Row], watch: Watch | None = None
) -> list[list[Arrays]]:
    """The outputs of each run of each row, states apart. `model` is loaded for this alone.

    `watch` is shown every value that a run makes.
    """
    InlinePass()(model)
    widen(model, rounding=True)  # nothing here computes in a narrow dtype, but everything rounds to one
    lower_portable(model)
    graph = model.graph
    foldable = foldable_values(graph)
    nodes = [node for node in graph if node.outputs[0] not in foldable]
    last = {value: place for place, node in enumerate(nodes) for value in read_by(node)}
    outputs = set(graph.outputs)
    for row in rows:
        row.live = [_wide(inputs) for inputs in row.runs]
        row.states = _wide(row.states)
        row.outputs = [{} for _ in row.runs]
    for start, end in _pieces(nodes, foldable, signature):
        piece = piece_of(nodes[start:end], foldable)
        made = [value for node in piece.nodes for value in node.outputs if value.name and not is_narrow(value)]
        wanted = made if watch else [v for v in made if v in outputs or last.get(v, -1) >= end]
        weighty = {value.name or "": np.asarray(compute(value, weights), order="C") for value in piece.weights}
        reads = [name for name in names(piece.reads) if name]
        example = {name: {**rows[0].states, **rows[0].live[0]}[name] for name in reads}
        runner = Runner(piece, wanted, model.opset_imports, weighty, example)
        gone = {value.name or "" for value in (*made, *piece.reads) if last.get(value, -1) < end}
        for number, row in enumerate(rows):
            _through(runner, row, signature, weighty, watch and _of_row(watch, number))
            for live in row.live:
                for name in gone & live.keys():
                    del live[name]
    return [row.outputs for row in rows]


def _wide(arrays: Mapping[str, np.ndarray]) -> Arrays:
    narrow = (np.float16, ml_dtypes.bfloat16)
    return {name: array.astype(np.float32) if array.dtype in narrow else array for name, array in arrays.items()}


def _of_row(watch: Watch, row: int) -> Callable[[int, str, np.ndarray], None]:
    return lambda run, name, array: watch(row, run, name, array)


def _through(
    runner: Runner,
    row: Row,
    signature: IoSignature,
    weighty: Arrays,
    watch: Callable[[int, str, np.ndarray], None] | None,
) -> None:
    outputs = {tensor.name for tensor in signature.outputs}
    for number, live in enumerate(row.live):
        made = runner({**weighty, **row.states, **live})
        for state in signature.states:
            if state.output in made:
                row.states[state.name] = made[state.output]
        for name, array in made.items():
            if name in outputs:
                row.outputs[number][name] = array
            if watch is not None:
                watch(number, name, array)
        live |= made


def _pieces(nodes: Sequence[ir.Node], foldable: set[ir.Value], signature: IoSignature) -> Iterator[tuple[int, int]]:
    """Cuts by what the weights take. A state is read and written in one piece, so that it can pass from run to run."""
    closed = _between_states(nodes, signature)
    start, held = 0, 0
    for place, node in enumerate(nodes):
        size = sum(_size(value) for value in read_by(node) if value in foldable)
        if held and held + size > MOST_WEIGHTS and place not in closed:
            yield start, place
            start, held = place, 0
        held += size
    yield start, len(nodes)


def _between_states(nodes: Sequence[ir.Node], signature: IoSignature) -> set[int]:
    """Places between the first look at a state's content and the node that makes its next one, and within roundings."""
    first: dict[str, int] = {}
    made: dict[str, int] = {}
    closed: set[int] = set()
    for place, node in enumerate(nodes):
        for value in read_by(node):
            if is_narrow(value):  # a rounding is two casts, between which nothing passes from piece to piece
                closed.add(place)
            if node.op_type != "Shape":
                first.setdefault(value.name or "", place)
        for value in node.outputs:
            made[value.name or ""] = place
    for state in signature.states:
        if state.name in first and state.output in made:
            closed |= set(range(first[state.name] + 1, made[state.output] + 1))
    return closed


def _size(value: ir.Value) -> int:
    """Bytes as numbers of four, which is what narrower ones are widened to."""
    return sum(4 * int(np.prod(tensor.shape.numpy())) for tensor in sources(value))
