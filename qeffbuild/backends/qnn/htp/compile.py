"""Lowered graph, its weights and the sizes of a phase -> a context binary for Hexagon, compared with the processor.

The provider makes the same bytes in every fresh process and others in a used one: this step runs in one of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from qeffbuild.backends.qnn.htp.comparing import Inputs, largest_difference
from qeffbuild.backends.qnn.htp.placing import Unplaced, refusal, unplaced
from qeffbuild.backends.qnn.htp.products import quantize_products
from qeffbuild.backends.qnn.htp.provider import STRICT, open_graph
from qeffbuild.backends.qnn.htp.shapes import fix_shapes
from qeffbuild.errors import StepError
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graph.write import write_weights

DLC = "dlc"
_GRAPH = "graph.onnx"


@dataclass(frozen=True, slots=True)
class Phase:
    """One compiled graph: `seq_len` tokens of every row in a run."""

    name: str
    seq_len: int

    @property
    def file(self) -> str:
        return f"{self.name}.onnx"


def run(work: Work) -> None:
    params, stage = work.params, work.out / "stage"
    stage.mkdir()
    phases = [Phase(**said) for said in params["phases"]]
    _write_weights(work, stage)
    said: dict[str, Any] = {"schema": 1, "provider": provider_options(params), "graphs": {}}
    shared = []  # sessions that share weights have to stay open until the last one is compiled
    for phase in phases:
        source = _static_graph(work, stage, phase)
        session = _compile(source, work.out / phase.file, params, sharing=_sharing(params, phase, phases))
        if params["weight_sharing"]:
            shared.append(session)
        else:
            _check_whole(work.out / phase.file)
            session = open_graph(work.out / phase.file, {"backend_type": "htp"})
        said["graphs"][phase.name] = _compare(session, source, params)
        if params["dlc"]:
            _keep_dlc(source, work.out / DLC / phase.name, params)
    if params["weight_sharing"]:
        for phase in phases:
            _check_whole(work.out / phase.file)
    shutil.rmtree(stage)
    (work.out / "compile.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def provider_options(params: Mapping[str, Any]) -> dict[str, str]:
    said = {
        "backend_type": "htp",
        "soc_model": str(params["soc_model"]),
        "htp_arch": str(params["htp_arch"]),
        "htp_graph_finalization_optimization_mode": str(params["optimization"]),
        "offload_graph_io_quantization": "0",  # else the processor would do that part
    }
    return said if params["vtcm_mb"] is None else {**said, "vtcm_mb": str(params["vtcm_mb"])}


def _write_weights(work: Work, stage: Path) -> None:
    steps = [Folder(work.inputs[role]) for role in ("graph", "quantized", "exported") if role in work.inputs]
    weights = Weights(*steps, checkpoint_folder(work.inputs["model"], work.leaves.get("model")))
    model = load_graph(work.inputs["graph"] / _GRAPH)
    write_weights(model, weights, stage / "graph.data", work.progress)
    save_graph(model, stage / _GRAPH)


def _static_graph(work: Work, stage: Path, phase: Phase) -> Path:
    """The phase's graph with every size fixed; the weights lie beside it."""
    params = work.params
    model = ir.load(stage / _GRAPH)
    if params["precision"] == "a16w8":
        ranges = json.loads((work.inputs["ranges"] / "ranges.json").read_text())["ranges"]
        quantize_products(model, ranges)
    sizes = {"batch_size": params["batch_size"], "ctx_len": params["ctx_len"], "seq_len": phase.seq_len}
    fix_shapes(model, {**sizes, "num_logits": 1})
    source = stage / f"{phase.name}.static.onnx"
    ir.save(model, source, external_data=f"{phase.name}.static.data", size_threshold_bytes=1024)
    return source


def _sharing(params: Mapping[str, Any], phase: Phase, phases: list[Phase]) -> dict[str, str]:
    if not params["weight_sharing"]:
        return {}
    last = {"ep.stop_share_ep_contexts": "1"} if phase == phases[-1] else {}
    return {"ep.share_ep_contexts": "1", **last}


def _compile(source: Path, result: Path, params: Mapping[str, Any], *, sharing: Mapping[str, str]) -> Any:
    """The compiling session; `result` and its binary are written."""
    context = {"ep.context_enable": "1", "ep.context_file_path": str(result), "ep.context_embed_mode": "0"}
    options = provider_options(params)
    left: list[Unplaced] = []
    try:
        return open_graph(source, options, config={**STRICT, **context, **sharing})
    # ONNX Runtime's exceptions have no common base but this.
    except Exception as cause:
        with suppress(Exception):  # then the first problem is told as it is
            left = unplaced(source, options)
        if left:
            raise refusal(left) from cause
        raise StepError("step.compile", _translated(str(cause), params), hint="read its log") from cause


def _translated(problem: str, params: Mapping[str, Any]) -> str:
    """Out of memory is what the provider says of a chip that it does not know, too."""
    first = next(iter(problem.strip().splitlines()), "no reason was given")
    if "MEM_ALLOC" in problem or "1002" in problem:
        chip = f"soc_model={params['soc_model']}, htp_arch={params['htp_arch']}, vtcm_mb={params['vtcm_mb']}"
        return f"the graph does not fit this chip ({chip}): {first}"
    return f"the compiler failed: {first}"


def _check_whole(compiled: Path) -> None:
    """One node, which stands for the whole graph, and the binary that it names."""
    if not compiled.is_file():
        raise StepError("step.output", f"the compiler ended well but left no {compiled.name}", hint="read its log")
    nodes = onnx.load(compiled, load_external_data=False).graph.node
    if [node.op_type for node in nodes] != ["EPContext"]:
        kinds = ", ".join(sorted({node.op_type for node in nodes}))
        raise StepError("step.output", f"{compiled.name}: not one compiled graph, but {kinds}", hint="read its log")
    said = {attribute.name: attribute for attribute in nodes[0].attribute}
    name = said["ep_cache_context"].s.decode() if "ep_cache_context" in said else ""
    binary = compiled.parent / name
    if binary.parent != compiled.parent or not binary.is_file() or binary.stat().st_size == 0:
        raise StepError("step.output", f"{compiled.name}: its binary {name!r} is missing or empty", hint="read its log")


def _compare(session: Any, source: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """How far a run on the device is from one of the same graph on the processor; refused where it is too far."""
    if params["tolerance"] is None:
        return {"difference": None}
    difference = largest_difference(session, source, Inputs.of(session))
    if not difference <= params["tolerance"]:
        raise StepError(
            "step.check",
            f"logits differ from the processor's by {difference:.3g} of their deviation, more than "
            f"{params['tolerance']:g}",
            hint="float16 may not hold this model; backend.tolerance says how much is allowed",
        )
    return {"difference": round(difference, 4)}


def _keep_dlc(source: Path, folder: Path, params: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    options = {"backend_type": "ir", "dump_qnn_ir_dlc": "1", "dump_qnn_ir_dlc_dir": str(folder)}
    try:
        open_graph(source, options)
    except Exception as cause:
        raise StepError("step.compile", f"no DLC: {next(iter(str(cause).splitlines()), '')}") from cause
    written = [file for file in folder.iterdir() if file.stat().st_size]
    if len(written) != 1:
        raise StepError("step.output", f"{len(written)} DLC files were written, not one", hint="read its log")
    written[0].rename(folder.parent / f"{folder.name}.dlc")
    folder.rmdir()
