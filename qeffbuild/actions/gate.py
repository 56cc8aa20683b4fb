"""A graph of a build and what PyTorch says -> gate.json: how far apart they are; too far, and the build stops here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.errors import StepError
from qeffbuild.executor.work import Work
from qeffbuild.gate import reference as references
from qeffbuild.gate.feeds import Run, runs, states
from qeffbuild.gate.figures import (
    Figures,
    Limits,
    Pair,
    compare,
    compare_tokens,
    exact,
    lossy,
    tokens_only,
    usual_error,
    usual_noise,
)
from qeffbuild.gate.layers import Search
from qeffbuild.gate.questions import PIXELS
from qeffbuild.gate.reference import DISTRIBUTIONS, Reference
from qeffbuild.gate.rounding import is_off, rounded
from qeffbuild.gate.stream import Row, stream
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graphs import Member, members
from qeffbuild.models import Facts
from qeffbuild.package import GATE

# Products of integers, which round what they are given before it is multiplied, and tables of rounded words.
_ROUNDING = frozenset({"MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}) | {
    "GatherBlockQuantized",
}  # fmt: skip
_BEFORE = ("widen", "transform", "export")  # of these steps, the one whose graph is quantized, if there is one
_BEHIND = ("graph", "quantize", "widen", "transform", "export")  # steps beside whose graphs weights may lie


def run(work: Work) -> None:
    facts = Facts.load(work.inputs["model"] / "facts.json")
    reference = references.load(work.inputs["reference"])
    said: dict[str, Any] = {"schema": 1, "edge": work.params["edge"]}
    if not all(np.isfinite(array).all() for array in reference.outputs):
        said["skipped"] = "what PyTorch says itself is not finite"
    else:
        said |= _Gate(work, facts, reference).pass_through()
    (work.out / GATE).write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


class _Gate:
    """The graphs of one step and their reference: what others make of a row is held for the main one."""

    def __init__(self, work: Work, facts: Facts, reference: Reference) -> None:
        self.work, self.facts, self.reference = work, facts, reference
        self.main, *self.others = members(work.inputs["graph"])
        folders = [Folder(work.inputs[role]) for role in _BEHIND if role in work.inputs]
        self.weights = Weights(*folders, checkpoint_folder(work.inputs["model"], work.leaves.get("model")))
        path = work.inputs.get("quantize", work.out) / "quantize.json"
        self.quantized = json.loads(path.read_text()) if path.is_file() else {}
        # The last one, but for the count of an image's tokens that are taken.
        self.output = [each.name for each in self.main.signature.outputs if not each.name.endswith("_idx_output")][-1]
        every = (self.main, *self.others)
        rounding = [node for each in every for node in _rounding(load_graph(each.graph).graph)]
        self.is_lossy = "quantize" in work.inputs or bool(rounding)
        self.bits = min([self.quantized.get("bits", 8), *map(_bits, rounding)])

    def pass_through(self) -> dict[str, Any]:
        edge, level = self.work.params["edge"], self.work.params["level"]
        count, wrong = self._rounded()
        if wrong is not None:
            raise StepError("step.gate", f"{edge}: {wrong}", hint=_HINTS[level])
        found, most = self._figures(), self._limits()
        problem = most.broken_by(found)
        if problem is not None:
            hint = _HINTS[level]
            if self.is_lossy:
                hint = f"more bits or smaller blocks lose less, gate.tolerance allows more, {hint}"
            raise StepError("step.gate", f"{edge}: {problem}{self._where(most)}", hint=hint)
        said = {"figures": found.as_json(), "at_most": found.at_most(), "limits": most.as_json()}
        return {**said, "prompts": len(self.reference.rows), **({"rounded": count} if count else {})}

    def _rounded(self) -> tuple[int, str | None]:
        """How many products were held against the weights that they were rounded from; the first wrong one in words."""
        if "quantize" not in self.work.inputs:
            return 0, None
        before = next(self.work.inputs[role] for role in _BEFORE if role in self.work.inputs)
        names, count = self.facts.names, 0
        for member, was in zip((self.main, *self.others), members(before), strict=True):
            self.work.progress(0.05, "integers and their weights")
            graphs = load_graph(member.graph).graph, load_graph(was.graph).graph
            for found in rounded(*graphs, self.weights, names):
                count += 1
                if is_off(found, calibrated="kl" in self.quantized):
                    wrong = f"a block is {found.steps:.2g} steps from the weights it was rounded from"
                    return count, f"{found.name}: {wrong}"
        return count, None

    def _figures(self) -> Figures:
        self.work.progress(0.1, f"{len(self.reference.rows)} prompts")
        pairs: list[Pair] = []
        held = self._held(self.reference.rows)
        runs, made = self._said_by(self.main, self.reference.rows, held)
        for outputs, wanted, done in zip(made, self.reference.outputs, runs, strict=True):
            for given, one in zip(outputs, done, strict=True):
                array = given[self.output]
                if array.ndim == 4:  # heads that guess further ahead are behind the model's own
                    array = array[:, :, 0]
                array = array.reshape(-1, array.shape[-1])
                # A form may give out the last tokens only.
                part = wanted[one.start : one.stop] if self.main.signature.states else wanted
                pairs.append((part[-len(array) :], array[: len(part)]))
        if self.output == "next_tokens":
            return compare_tokens(pairs)
        return compare(pairs, are_logits=self.facts.task in DISTRIBUTIONS)

    def _held(self, rows: Sequence[references.Row], search: Search | None = None) -> list[dict[str, np.ndarray]]:
        """For each row the pixels of its image, and what the graphs beside the main one make of it."""
        held = [{name: row[name] for name in (PIXELS,) if name in row} for row in rows]
        for member in self.others:
            _, made = self._said_by(member, rows, held, search)
            for each, (outputs,) in zip(held, made, strict=True):
                each |= {tensor.name: outputs[tensor.name] for tensor in member.signature.outputs}
        return held

    def _said_by(
        self,
        member: Member,
        rows: Sequence[references.Row],
        held: Sequence[references.Row],
        search: Search | None = None,
    ) -> tuple[list[tuple[Run, ...]], list[list[dict[str, np.ndarray]]]]:
        """The runs of each row, and their outputs."""
        said = member.signature
        done = [runs(said, row, beside) for row, beside in zip(rows, held, strict=True)]
        if search is not None:
            search.spans = [(one.start, one.stop) for one in done[0]] if member is self.main else ()
        fed = [
            Row(runs=[one.inputs for one in each], states=states(said, row, beside))
            for each, row, beside in zip(done, rows, held, strict=True)
        ]
        return done, stream(load_graph(member.graph), said, self.weights, fed, watch=search)

    def _limits(self) -> Limits:
        said = self.work.params
        if self.output == "next_tokens":
            return tokens_only()
        if not self.is_lossy:
            return exact(said["dtype"], said["tolerance"])
        return lossy(self.bits, said["kl"], self.quantized.get("kl", 0.0), said["tolerance"])

    def _where(self, most: Limits) -> str:
        search, first = Search(self.reference), self.reference.rows[:1]
        self._said_by(self.main, first, self._held(first, search), search)
        words = search.begins(usual_noise(self.bits) if self.is_lossy else usual_error(most))
        return "" if words is None else f"; {words}"


def _rounding(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph.all_nodes() if node.op_type in _ROUNDING]


def _bits(node: ir.Node) -> int:
    return node.attributes["bits"].as_int() if "bits" in node.attributes else 8


_HINTS = {
    "fast": "gate=full says in which step it begins, gate=none builds without looking",
    "full": "gate=none builds without looking",
}
