"""What was asked and what the graph says -> the documents that the compiler reads, as text, through the templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qeffbuild.backends.qaic.command import COMPILER
from qeffbuild.backends.qaic.options import SdkForm
from qeffbuild.backends.qaic.pipeline import Stage
from qeffbuild.cloud_ai_100.names import IMAGE
from qeffbuild.cloud_ai_100.specializations import Specialization
from qeffbuild.rendering import render
from qeffbuild.signature import IoSignature
from qeffbuild.spec.types import Dtype

_PARTITION: dict[str, Any] = {"devices": [{"deviceId": int, "numCores": int}], "name": str}
_MDP: dict[str, Any] = {"connections": [{"devices": [int], "type": str}], "partitions": [_PARTITION]}


def specializations_json(entries: Iterable[Specialization], form: SdkForm = "named", own: Path | None = None) -> str:
    said = {"specializations": [{"name": entry.name, "symbols": dict(entry.symbols)} for entry in entries]}
    if form == "flat":
        flat: Any = {"specializations": [{str: str}]}
        return render("qaic/specializations_flat.json.j2", said, result="json", shape=flat, own=own)
    named: Any = {"specializations": [{"name": str, "symbols": {str: str}}]}
    return render("qaic/specializations.json.j2", said, result="json", shape=named, own=own)


def state_precision(dtype: Dtype, *, mxint8: bool) -> str | None:
    """The precision in which keys and values are kept; None where the compiler needs no word about it."""
    if mxint8:
        return "mxint8"
    return None if dtype == "bfloat16" else "float16"


def custom_io_yaml(signature: IoSignature, precision: str, own: Path | None = None) -> str:
    """Each state's input, then its output, in the graph's order; with adapters, all inputs, then all outputs.

    `precision` is that of keys and values. What a recurrence carries has no form of 8 bits: then it stays as it is.
    Of a graph that sees it is all that goes in and out.
    """
    states = [state for state in signature.states if state.kind != "buffer"]  # whose numbers are no floats
    if precision == "mxint8":
        states = [state for state in states if state.positional or state.kind in ("adapter", IMAGE)]
    tensors = [name for state in states for name in (state.name, state.output)]
    if any(state.kind == "adapter" for state in states):
        tensors = [*(state.name for state in states), *(state.output for state in states)]
    heard = [tensor.name for tensor in signature.inputs if "feature_len" in tensor.axes]
    tensors = (
        [*heard, *tensors] if signature.states else [tensor.name for tensor in (*signature.inputs, *signature.outputs)]
    )
    kept = {name for state in states if state.kind != IMAGE for name in (state.name, state.output)}
    kept |= {*heard}
    said = {"tensors": [{"name": name, "precision": precision if name in kept else "float16"} for name in tensors]}
    shape = [{"IOName": str, "Precision": str}]
    return render("qaic/custom_io.yaml.j2", said, result="yaml", shape=shape, own=own)


def tensor_slice_json(devices: int, num_cores: int, own: Path | None = None) -> str:
    """One partition over all devices, which are counted from 0: their ids are chosen when the program is loaded."""
    said = {"devices": list(range(devices)), "num_cores": num_cores}
    return render("qaic/mdp_tensor_slice.json.j2", said, result="json", shape=_MDP, own=own)


def pipeline_json(stages: Sequence[Stage], num_cores: int, own: Path | None = None) -> str:
    said = {
        "devices": [device for stage in stages for device in stage.devices],
        "num_cores": num_cores,
        "stages": [
            {"name": stage.name, "devices": list(stage.devices), "nodes": list(stage.nodes)} for stage in stages
        ],
    }
    shape = {**_MDP, "partitions": [{**_PARTITION, "nodeList": [str]}]}
    return render("qaic/mdp_pipeline.json.j2", said, result="json", shape=shape, own=own)


def compile_script(commands: Sequence[Sequence[str]], weights: Sequence[str], own: Path | None = None) -> str:
    """A shell script that says the commands; `weights` are the files that must lie beside it.

    `arguments` are those of the last one, for templates that know of one graph only.
    """
    said: dict[str, Any] = {"compiler": COMPILER, "commands": [list(argv[1:]) for argv in commands]}
    said |= {"arguments": said["commands"][-1], "weights": list(weights)}
    return render("qaic/compile.sh.j2", said, own=own)


def slice_file(devices: int) -> str:
    return f"mdp_ts_{devices}.json"


def pipeline_file(devices: int, stages: int) -> str:
    return f"mdp_disagg_{devices}d_{stages}p.json"
