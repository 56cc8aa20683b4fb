"""Lowered graph, checkpoint, tokenizer -> a folder that runs without the store, loaded and run once as the proof."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qeffbuild.errors import SpecError, StepError
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graph.write import Written, write_weights
from qeffbuild.graphs import Member, members
from qeffbuild.models import save_tokenizer
from qeffbuild.models.manifest import model_facts
from qeffbuild.models.tasks import GENERATING
from qeffbuild.package import (
    KV_SCALES,
    TOKENIZER,
    Package,
    bring_adapters,
    gates,
    write_manifest,
    write_provenance,
)
from qeffbuild.signature import Tensor

# What a trial run is fed where a graph's axis is free: the second token is padding, and must do no harm.
_TRIAL = {"batch_size": 1, "seq_len": 2, "num_logits": 1, "ctx_len": 4}
PREFILL = "prefill"  # a second form of the main graph, for prompts
_TRIAL_SOUND = {2: 16_000, 3: 200}  # samples, or frames, of a sound; by the number of its axes


def run(work: Work) -> None:
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    fetched = json.loads((work.inputs["model"] / "model.json").read_text())["files"]
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))

    exported = json.loads((work.inputs["exported"] / "export.json").read_text())
    _fits(exported, work.params["specialization"]["ctx_len"])
    graphs = members(work.inputs["graph"])
    known = _write_graphs(graphs, work, checkpoint)
    packed = _prepack(graphs, work)
    known = {name: digest for name, digest in known.items() if name not in packed}
    has_tokenizer = save_tokenizer(checkpoint.path, fetched, work.out / TOKENIZER)
    if "quantized" in work.inputs and (scales := work.inputs["quantized"] / KV_SCALES).is_file():
        shutil.copyfile(scales, work.out / KV_SCALES)
    adapters = bring_adapters(work.inputs["exported"], work.out)
    write_provenance(work.out, work.params, fetched, known)
    said = _manifest(graphs, work, facts, exported, has_tokenizer)
    for member in graphs:
        if f"{member.name}.data" in packed:
            said["graphs"][member.name]["prepacked"] = packed[f"{member.name}.data"]
    package = write_manifest(work.out, said if adapters is None else {**said, "adapters": adapters}, known)
    _try_out(package, work)


def _fits(exported: Mapping[str, Any], ctx_len: int) -> None:
    longest = exported.get("longest_context")
    if longest is not None and ctx_len > longest:
        raise SpecError(
            "spec.range",
            f"specialization.ctx_len: {ctx_len}, but this model reads texts of more than {longest} tokens in a way "
            "that its graph has not",
            hint=f"specialization.ctx_len={longest}",
        )


def _write_graphs(graphs: Sequence[Member], work: Work, checkpoint: Folder) -> dict[str, str]:
    """NAME.onnx and NAME.data of each graph; the digests of the latter, taken while writing."""
    steps = [work.inputs[role] for role in ("graph", "quantized", "rowwise", "exported") if role in work.inputs]
    weights = Weights(*(Folder(step) for step in steps), checkpoint)
    known = {}
    for member in graphs:
        written = _write_graph(member.graph, member.name, weights, work)
        known[f"{member.name}.data"] = written.sha256
        if PREFILL in work.inputs and member is graphs[0]:
            second = members(work.inputs[PREFILL])[0]
            name = f"{member.name}.{PREFILL}"
            known[f"{name}.data"] = _write_graph(second.graph, name, weights, work, before=written.stored).sha256
    return known


def _prepack(graphs: Sequence[Member], work: Work) -> dict[str, Any]:
    """What was added to which data file, where weights are wanted a second time."""
    if "prepack" not in work.params:
        return {}
    prepack = import_module(work.params["prepack"]).prepack
    return {f"{member.name}.data": prepack(work.out / f"{member.name}.onnx") for member in graphs}


def _write_graph(
    graph: Path, name: str, weights: Weights, work: Work, before: Mapping[str, Any] | None = None
) -> Written:
    model = load_graph(graph)
    written = write_weights(model, weights, work.out / f"{name}.data", work.progress, before=before)
    save_graph(model, work.out / f"{name}.onnx")
    return written


def _manifest(
    graphs: Sequence[Member], work: Work, facts: Mapping[str, Any], exported: Mapping[str, Any], has_tokenizer: bool
) -> dict[str, Any]:
    said = {}
    for member in graphs:
        lowered = json.loads((work.inputs["graph"] / f"{member.prefix}lower.json").read_text())
        said[member.name] = {
            "file": f"{member.name}.onnx",
            "signature": member.signature.as_json(),
            "in_place": lowered["in_place"],
            "rows_apart": lowered["rows_apart"],
            "form": {"attention": lowered["attention"], "fused": lowered["fused"]},
        }
        if PREFILL in work.inputs and member is graphs[0]:
            lowered_too = json.loads((work.inputs[PREFILL] / "lower.json").read_text())
            said[member.name] |= {
                PREFILL: f"{member.name}.{PREFILL}.onnx",
                f"{PREFILL}_has_blocks": lowered_too["has_blocks"],
            }
    return {
        "backend": work.params["backend"],
        "task": facts["task"],
        "graphs": said,
        "specialization": work.params["specialization"],
        "model": model_facts(facts),
        "quantization": {**work.params["quantization"], **_encoded(lowered), **_measured(work)},
        "tokenizer": TOKENIZER if has_tokenizer else None,
        **gates(work.inputs),
        **({"image": exported["image"]} if "image" in exported else {}),
    }


def _encoded(lowered: Mapping[str, Any]) -> dict[str, Any]:
    """How many weights of a quantized checkpoint took which form."""
    forms: dict[str, int] = {}
    for form in lowered.get("encoded", {}).values():
        forms[form] = forms.get(form, 0) + 1
    return {"checkpoint": forms} if forms else {}


def _measured(work: Work) -> dict[str, Any]:
    """What quantizing found out: the KL that it measured, weights with more bits, how much each one matters."""
    if "quantized" not in work.inputs:
        return {}
    said = json.loads((work.inputs["quantized"] / "quantize.json").read_text())
    return {name: said[name] for name in ("calibrated_on", "kl", "eight", "sensitivity") if said.get(name)}


def _try_out(package: Package, work: Work) -> None:
    """The checker's opinion, then a real run of each graph: a package that does not run is not published."""
    for name in package.graphs:
        try:
            onnx.checker.check_model(str(package.graph(name)))
        except onnx.checker.ValidationError as cause:
            problem = str(cause).strip().splitlines()[0]
            raise StepError("step.check", f"{name}.onnx is not valid: {problem}") from cause
    session = import_module(work.params["session"]).open_session(package, threads=1)
    for name in package.graphs:
        _try_graph(session, package, name, is_finite_wanted=not work.params["allow_nonfinite"])


def _try_graph(session: Any, package: Package, name: str, *, is_finite_wanted: bool) -> None:
    signature = session.signature(name)
    states = session.allocate(name, _TRIAL["batch_size"], _TRIAL["ctx_len"])
    session.hold(states, {tensor.name: _trial(tensor) for tensor in signature.held})
    inputs = {tensor.name: _trial(tensor) for tensor in signature.inputs}
    if "position_ids" in inputs:
        inputs["position_ids"][:] = [0, -1]
    made = session.run(name, inputs, states)
    vocabulary = package.model["vocab_size"]
    if package.manifest["task"] in GENERATING and "logits" in made and made["logits"].shape[-1] < vocabulary:
        raise StepError("step.check", f"{made['logits'].shape[-1]} logits for a vocabulary of {vocabulary}")
    if is_finite_wanted and not all(np.isfinite(array).all() for array in made.values()):
        raise StepError(
            "step.check",
            f"a short run of the graph {name!r} gives numbers that are not finite",
            hint="look for overflow (model.dtype=float32), or say model.allow_nonfinite=true",
        )


def _trial(tensor: Tensor) -> np.ndarray:
    """Zeros of a small shape; a mask that hides nothing but the last token, which then is padding."""
    is_sound = tensor.dtype == "float32" and "seq_len" in tensor.axes
    sizes = {**_TRIAL, "seq_len": _TRIAL_SOUND[len(tensor.axes)]} if is_sound else _TRIAL
    array = np.zeros([axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in tensor.axes], tensor.dtype)
    if tensor.name == "attention_mask":
        array[:, :1] = 1
    return array
