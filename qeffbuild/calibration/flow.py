"""Calibration rows on their way through a graph: with exact weights, and on other paths with some of them changed.

The graph is cut where matrix products read their inputs. Between two cuts only what later nodes read is kept; what does
not depend on the tokens is kept once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from qeffbuild.calibration.pieces import Runner, piece_of, read_by
from qeffbuild.graph.fold import compute, foldable_values
from qeffbuild.graph.hoist import hoist
from qeffbuild.graph.loops import lower_loops
from qeffbuild.graph.ops import lower_portable
from qeffbuild.graph.products import products
from qeffbuild.graph.weights import Weights
from qeffbuild.signature import IoSignature, State, Tensor

EXACT, QUANTIZED = 0, 1
BATCH = 4  # rows that run together

Arrays = dict[str, np.ndarray]


class Flow:
    """`model` is a neutral graph, loaded for this alone; `rows` are token ids [rows, row length].

    Its values have the names that they have in another copy whose loops were left by what needs no state.
    """

    def __init__(self, model: ir.Model, signature: IoSignature, weights: Weights, rows: np.ndarray) -> None:
        hoist(model.graph)
        InlinePass()(model)
        lower_loops(model.graph)
        lower_portable(model)
        self.weights = weights
        self._opsets = dict(model.opset_imports)
        self._foldable = foldable_values(model.graph)
        self._nodes = [node for node in model.graph if node.outputs[0] not in self._foldable]
        self._maker = {out.name or "": place for place, node in enumerate(self._nodes) for out in node.outputs}
        self._slots = _open_slots(model.graph)  # weight of a product, by the name of what the product makes
        self._last = _last_reads(self._nodes)
        self._varies = _depending_on("input_ids", model.graph)
        self._done = 0
        self._changed: dict[int, Arrays] = {}  # of each path but the exact one: weights, until they have been used
        self._apart: list[int] = []  # paths that have used one; before that they are the exact one
        size = min(BATCH, len(rows))
        batches = [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]
        self._shared = _inputs(signature, size, rows.shape[1])
        self._live: list[dict[int, Arrays]] = [{EXACT: {"input_ids": rows}} for rows in batches]

    @property
    def tokens(self) -> int:
        return sum(paths[EXACT]["input_ids"].size for paths in self._live)

    def place(self, value: str) -> int | None:
        """When it is made, among all that is; None where it is made for each token anew, inside a loop."""
        return self._maker.get(value)

    def substitute(self, output: str, weight: np.ndarray, path: int = QUANTIZED) -> None:
        """On this path the product that makes `output`, which was not reached yet, has another weight."""
        self._changed.setdefault(path, {})[output] = weight

    def reach(self, value: str) -> None:
        """Runs everything up to the node that makes `value`."""
        end = max(self._done, self._maker.get(value, -1) + 1)
        if end > self._done:
            self._advance(end, value)
        gone = [name for name in self._all() if name != value and self._last.get(name, -1) < end]
        for held in (self._shared, *(path for paths in self._live for path in paths.values())):
            for name in gone:
                if name != "input_ids":
                    held.pop(name, None)

    def batches(self, value: str, path: int) -> Iterator[np.ndarray]:
        """A value that was just reached, batch by batch."""
        for at in range(len(self._live)):
            yield self._read(at, path, value)

    def last(self, value: str) -> Iterator[tuple[int, np.ndarray]]:
        """Runs the rest up to a value: path and value of each batch, the exact path first. Nothing is kept of it."""
        end = max(self._done, self._maker[value] + 1)
        for _, path, made in self._runs(end, value):
            yield path, made[value]

    def _advance(self, end: int, value: str) -> None:
        for at, path, made in self._runs(end, value):
            for name, array in made.items():
                held = self._live[at].setdefault(path, {}) if name in self._varies else self._shared
                held[name] = array

    def _runs(self, end: int, value: str) -> Iterator[tuple[int, int, Arrays]]:
        """The next piece: batch, path, and what later pieces want of it."""
        nodes = self._nodes[self._done : end]
        piece = piece_of(nodes, self._foldable)
        made = [out for node in nodes for out in node.outputs]
        wanted = [out for out in made if out.name == value or self._last.get(out.name or "", -1) >= end]
        slots = {out.name or "": self._slots[out.name or ""] for out in made if out.name in self._slots}
        exact = {f"{name}.weight": compute(weight, self.weights) for name, weight in slots.items()}
        runs = {EXACT: exact, **{path: {**exact, **own} for path, own in self._changes(slots).items()}}
        constants = {value.name or "": compute(value, self.weights) for value in piece.weights}
        names = [value.name or "" for value in piece.reads if value.name not in exact]
        example = {name: self._read(0, EXACT, name) for name in names}
        runner = Runner(piece, wanted, self._opsets, constants, {**example, **exact})
        self._done = end
        for at in range(len(self._live)):
            for path, weights in runs.items():
                feed = {name: self._read(at, path, name) for name in names}
                yield at, path, runner({**constants, **weights, **feed})

    def _changes(self, slots: Mapping[str, ir.Value]) -> dict[int, Arrays]:
        """The changed weights in this piece of every path that has gone its own way, now or before."""
        found: dict[int, Arrays] = {path: {} for path in self._apart}
        for path, changed in self._changed.items():
            if own := {f"{name}.weight": changed.pop(name) for name in slots if name in changed}:
                found[path] = own
        self._apart = list(found)
        return found

    def _read(self, at: int, path: int, name: str) -> np.ndarray:
        """A path's own value, else the exact one: it was made before the path went its own way."""
        for held in (self._live[at].get(path, {}), self._live[at][EXACT]):
            if name in held:
                return held[name]
        return self._shared[name]

    def _all(self) -> set[str]:
        return {*self._shared, *(name for paths in self._live for held in paths.values() for name in held)}


def _open_slots(graph: ir.Graph) -> dict[str, ir.Value]:
    """Each product reads a weight of its own, under a name of its own; what it read before."""
    slots = {}
    for product in list(products(graph)):
        output = product.node.outputs[0].name or ""
        slots[output] = product.weight
        product.node.replace_input_with(1, ir.Value(name=f"{output}.weight", type=product.weight.type))
    return slots


def _last_reads(nodes: Sequence[ir.Node]) -> dict[str, int]:
    return {value.name or "": place for place, node in enumerate(nodes) for value in read_by(node)}


def _depending_on(name: str, graph: ir.Graph) -> set[str]:
    """Names of the values that change when the input of this name does."""
    found = {name}
    for node in graph:
        if any(value.name in found for value in read_by(node)):
            found.update(out.name or "" for out in node.outputs)
    return found


def _inputs(signature: IoSignature, rows: int, length: int) -> Arrays:
    """Everything but the tokens: positions from 0 on, logits of every position, empty states."""
    positions = np.tile(np.arange(length), (rows, 1))
    sizes = {"batch_size": rows, "seq_len": length, "ctx_len": length, "num_logits": length}
    made: Arrays = {}
    everything: tuple[Tensor | State, ...] = (*signature.inputs, *signature.states)
    for said in everything:
        shape = [sizes.get(axis, 1) if isinstance(axis, str) else axis for axis in said.axes]
        is_place = said.name in ("position_ids", "logits_index")
        made[said.name] = positions.astype(said.dtype) if is_place else np.zeros(shape, said.dtype)
    made.pop("input_ids", None)
    return made
