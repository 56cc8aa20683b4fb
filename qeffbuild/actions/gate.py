"""A graph of a build and what PyTorch says -> gate.json: how far apart they are; too far, and the build stops here."""

from __future__ import annotations

import json
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
    usual_noise,
)
from qeffbuild.gate.layers import Search
from qeffbuild.gate.reference import DISTRIBUTIONS, Reference
from qeffbuild.gate.stream import Row, stream
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graphs import Member, members
from qeffbuild.models import Facts
from qeffbuild.package import GATE

# Products of integers: what they are given is rounded before it is multiplied.
_ROUNDING = frozenset({"MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})
_BEHIND = ("graph", "quantize", "transform", "export")  # steps beside whose graphs weights may lie


def run(work: Work) -> None:
    facts = Facts.load(work.inputs["model"] / "facts.json")
    reference = references.load(work.inputs["reference"])
    said: dict[str, Any] = {"schema": 1, "edge": work.params["edge"]}
    if isinstance(reference, Reference) and not all(np.isfinite(array).all() for array in reference.outputs):
        reference = "what PyTorch says itself is not finite"
    if isinstance(reference, str):
        said["skipped"] = reference
    else:
        (member, *_) = members(work.inputs["graph"])
        said |= _Gate(work, facts, member, reference).pass_through()
    (work.out / GATE).write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


class _Gate:
    """One graph and its reference."""

    def __init__(self, work: Work, facts: Facts, member: Member, reference: Reference) -> None:
        self.work, self.facts, self.member, self.reference = work, facts, member, reference
        folders = [Folder(work.inputs[role]) for role in _BEHIND if role in work.inputs]
        self.weights = Weights(*folders, checkpoint_folder(work.inputs["model"], work.leaves.get("model")))
        self.runs = [runs(member.signature, row) for row in reference.rows]
        path = work.inputs.get("quantize", work.out) / "quantize.json"
        self.quantized = json.loads(path.read_text()) if path.is_file() else {}
        self.bits = self.quantized.get("bits", 8)
        self.output = member.signature.outputs[-1].name
        self.is_lossy = "quantize" in work.inputs or _rounds(load_graph(member.graph).graph)

    def pass_through(self) -> dict[str, Any]:
        found, most = self._figures(), self._limits()
        problem = most.broken_by(found)
        if problem is not None:
            edge, hint = self.work.params["edge"], _HINTS[self.work.params["level"]]
            raise StepError("step.gate", f"{edge}: {problem}{self._where(most)}", hint=hint)
        said = {"figures": found.as_json(), "at_most": found.at_most(), "limits": most.as_json()}
        return {**said, "prompts": len(self.reference.rows)}

    def _figures(self) -> Figures:
        self.work.progress(0.1, f"{len(self.runs)} prompts")
        pairs: list[Pair] = []
        made = stream(load_graph(self.member.graph), self.member.signature, self.weights, self._rows())
        for outputs, wanted, done in zip(made, self.reference.outputs, self.runs, strict=True):
            for given, one in zip(outputs, done, strict=True):
                array = given[self.output]
                if array.ndim == 4:  # heads that guess further ahead are behind the model's own
                    array = array[:, :, 0]
                array = array.reshape(-1, array.shape[-1])
                # A form may give out the last tokens only.
                part = wanted[one.start : one.stop] if self.member.signature.states else wanted
                pairs.append((part[-len(array) :], array[: len(part)]))
        if self.output == "next_tokens":
            return compare_tokens(pairs)
        return compare(pairs, are_logits=self.facts.task in DISTRIBUTIONS)

    def _rows(self) -> list[Row]:
        return [self._row(done) for done in self.runs]

    def _row(self, done: tuple[Run, ...]) -> Row:
        return Row(runs=[one.inputs for one in done], states=states(self.member.signature, done[-1].stop))

    def _limits(self) -> Limits:
        said = self.work.params
        if self.output == "next_tokens":
            return tokens_only()
        if not self.is_lossy:
            return exact(said["dtype"], said["tolerance"])
        return lossy(self.bits, said["kl"], self.quantized.get("kl", 0.0))

    def _where(self, most: Limits) -> str:
        spans = [(one.start, one.stop) for one in self.runs[0]]
        search = Search(self.reference, spans)
        model = load_graph(self.member.graph)
        stream(model, self.member.signature, self.weights, self._rows()[:1], watch=search)
        words = search.begins(usual_noise(self.bits) if self.is_lossy else (most.error or 1.0) / 100)
        return "" if words is None else f"; {words}"


def _rounds(graph: ir.Graph) -> bool:
    return any(node.op_type in _ROUNDING for node in graph.all_nodes())


_HINTS = {
    "fast": "gate=full says in which step it begins, gate=none builds without looking",
    "full": "gate=none builds without looking",
}
