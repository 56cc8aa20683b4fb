"""Neutral graph -> the same graph with quantized matrix products; the new tensors lie beside it in quantized.data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from qeffbuild import quantizers
from qeffbuild.calibration.apply import DATA, Quantization
from qeffbuild.calibration.flow import Flow
from qeffbuild.calibration.kv import ranges, round_to_int8, round_to_mxint8, write_scales, writes
from qeffbuild.calibration.sensitivity import in_eight_bits
from qeffbuild.calibration.text import calibration_rows
from qeffbuild.errors import ModelError
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.hoist import hoist
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graph.write import DataFile
from qeffbuild.graphs import Member, members
from qeffbuild.models import Facts


def run(work: Work) -> None:
    facts = Facts.load(work.inputs["model"] / "facts.json")
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))
    weights = Weights(Folder(work.inputs["graph"]), checkpoint)
    if work.params.get("kv_cache"):
        _check_cache(work)
    for member in members(work.inputs["graph"]):
        one = _One(work, member, checkpoint, facts, weights)
        model, said = (load_graph(member.graph), {}) if work.params["method"] == "none" else one.within_budget()
        _round_cache(one, model)
        save_graph(model, work.out / member.file)
        shutil.copyfile(member.io, work.out / member.io.name)
        document = {"schema": 1, **work.params, **said}
        (work.out / f"{member.prefix}quantize.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


@dataclass(frozen=True, slots=True)
class _One:
    """One graph of the step, and all that it takes to quantize it."""

    work: Work
    member: Member
    checkpoint: Folder
    facts: Facts
    weights: Weights

    def within_budget(self) -> tuple[ir.Model, dict[str, Any]]:
        """The quantized graph. Where there is a budget, more weights get 8 bits until what was measured keeps it."""
        budget, eight = self.work.params.get("budget"), list[str]()
        if budget is None or self.member.prefix:
            return self.quantized(eight)
        known = json.loads((self.work.inputs["sensitivity"] / "sensitivity.json").read_text())
        kl, sizes = known["kl"], known["sizes"]
        while True:
            model, said = self.quantized(eight)
            left = sum(value for name, value in kl.items() if name not in eight)
            if said["kl"] <= budget or len(eight) == len(kl):
                return model, {**said, "sensitivity": kl}
            # What was measured for all tells how far the sum of single ones is from it.
            more = in_eight_bits(kl, sizes, most=0.9 * budget * left / said["kl"])
            eight = more if len(more) > len(eight) else [*eight, max(set(kl) - set(eight), key=lambda name: kl[name])]

    def quantized(self, eight: Sequence[str]) -> tuple[ir.Model, dict[str, Any]]:
        params, prefix = self.work.params, self.member.prefix
        model, method = load_graph(self.member.graph), quantizers.find(params["method"])
        flow = self.flow() if method.CALIBRATED or "budget" in params else None
        if flow is not None:
            hoist(model.graph)
        with (self.work.out / f"{prefix}{DATA}").open("wb") as file:
            quantization = Quantization(model, self.weights, self.facts.names, DataFile(file), method, params, flow)
            quantization.location, quantization.eight = f"{prefix}{DATA}", sorted(eight)
            return model, quantization.carry_out(self.work.progress)

    def flow(self) -> Flow:
        """The calibration text, ready to go through a copy of the graph."""
        inputs = {said.name for said in self.member.signature.inputs}
        if strange := inputs - {"input_ids", "position_ids", "logits_index"}:
            raise ModelError(
                "model.unsupported",
                f"quantization: text alone calibrates, but the {self.member.name} reads {', '.join(sorted(strange))}",
                hint="quantization=int8, int4 or hqq need no calibration",
            )
        text, tokens = self.work.leaves["calibration"], self.work.params["calibration_tokens"]
        rows = calibration_rows(self.checkpoint.path, self.facts, text, tokens=tokens)
        return Flow(load_graph(self.member.graph), self.member.signature, self.weights, rows)


def _check_cache(work: Work) -> None:
    if not any(writes(load_graph(member.graph).graph) for member in members(work.inputs["graph"])):
        found = "quantization.kv_cache: the model keeps no keys and values"
        raise ModelError("model.unsupported", found, hint="quantization.kv_cache=float")


def _round_cache(one: _One, model: ir.Model) -> None:
    format = one.work.params.get("kv_cache")
    if format == "mxint8":
        round_to_mxint8(model.graph)
    if format == "int8":
        flow = one.flow()
        written = load_graph(one.member.graph).graph
        hoist(written)
        scales = ranges(flow, written)
        write_scales(scales, one.work.out, flow.tokens)
        round_to_int8(model.graph, scales)
