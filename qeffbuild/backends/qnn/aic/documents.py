"""What was asked and what the graph says -> the documents that the QNN tools read, as text, through the templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qeffbuild.cloud_ai_100.specializations import Specialization
from qeffbuild.errors import ModelError
from qeffbuild.rendering import render
from qeffbuild.signature import Axis, IoSignature, State, Tensor

HARDWARE = "2.0"
_SEVERAL = "model_configuration_"  # the names that the converter gives to a graph with several sets of shapes

_CACHE = ("key", "value")

_INPUT = {"Name": str, "Desired Model Parameters": {"DataType": str, "Shape": str}}
_OUTPUT = {"Name": str, "Desired Model Parameters": {"DataType": str}}


def graph_names(entries: Sequence[Specialization]) -> list[str]:
    return ["model"] if len(entries) == 1 else [f"{_SEVERAL}{number}" for number, _ in enumerate(entries, 1)]


def specializations_json(entries: Sequence[Specialization], own: Path | None = None) -> str:
    said = {"specializations": [{"name": entry.name, "symbols": dict(entry.symbols)} for entry in entries]}
    shape: Any = {"specializations": [{"name": str, "symbols": {str: str}}]}
    return render("qnn/specializations.json.j2", said, result="json", shape=shape, own=own)


def custom_io_yaml(
    signature: IoSignature, entries: Sequence[Specialization], state_dtype: str, own: Path | None = None
) -> str:
    """Every input with its shape in each specialization, then every output; what is fed per token comes first."""
    fed = [tensor for tensor in signature.inputs if "seq_len" in tensor.axes]
    rest = [tensor for tensor in signature.inputs if tensor not in fed]
    inputs: list[Tensor | State] = [*fed, *signature.states, *rest]
    said = {
        "inputs": [
            {
                "name": value.name,
                "dtype": _dtype(value, state_dtype) if isinstance(value, State) else value.dtype,
                "shapes": _shapes(value, entries),
            }
            for value in inputs
        ],
        "outputs": [
            *({"name": tensor.name, "dtype": tensor.dtype} for tensor in signature.outputs),
            *({"name": state.output, "dtype": _dtype(state, state_dtype)} for state in signature.states),
        ],
    }
    shape: Any = {"Input Tensor Configuration": [_INPUT], "Output Tensor Configuration": [_OUTPUT]}
    return render("qnn/custom_io_config.yaml.j2", said, result="yaml", shape=shape, own=own)


def _dtype(state: State, cache_dtype: str) -> str:
    """Only keys and values may be MXINT8 (which is said as uint8); what holds no floats stays as it is."""
    if state.dtype != "float32":
        return state.dtype
    return cache_dtype if state.kind in _CACHE else "float16"


def _shapes(value: Tensor | State, entries: Sequence[Specialization]) -> list[list[int]]:
    """One for each specialization; of a state, which they share, one."""
    shapes = [[_size(value.name, axis, entry.symbols) for axis in value.axes] for entry in entries]
    if not isinstance(value, State):
        return shapes
    if any(shape != shapes[0] for shape in shapes):
        raise ModelError("onnx.unsupported", f"{value.name}: a state has one size in all specializations")
    return shapes[:1]


def _size(name: str, axis: Axis, symbols: Mapping[str, int]) -> int:
    if isinstance(axis, int):
        return axis
    if axis not in symbols:
        raise ModelError("onnx.unsupported", f"{name}: no specialization says what size {axis} has")
    return symbols[axis]


def settings(asked: Any, entries: Sequence[Specialization], slices: str | None) -> dict[str, Any]:
    """What the compiler inside the generator is told; `asked` is a render.Asked."""
    options = asked.options
    said: dict[str, Any] = {
        "compiler_compilation_target": "hardware",
        "compiler_hardware_version": HARDWARE,
        "compiler_convert_to_FP16": True,
        "compiler_retained_state": True,
        "graph_names": graph_names(entries),
        "compiler_enable_depth_first": options["aic_enable_depth_first"],
        "compiler_mxfp6_matmul_weights": asked.mxfp6_matmul,
        "compiler_num_of_cores": options["num_cores"],
        "compiler_do_DDR_to_multicast": True,
        "compiler_perfWarnings": False,
        "compiler_printDDRStats": False,
        "compiler_printPerfMetrics": False,
        "compiler_stat_level": options["stats_level"],
        "compiler_stats_batch_size": 1,
        "compiler_time_passes": False,
        "compiler_mxint8_mdp_io": options["allow_mxint8_mdp_io"],
    }
    if options["mos"] is not None:
        said["compiler_max_out_channel_split"] = str(options["mos"])
    if slices is not None:
        said["compiler_mdp_load_partition_config"] = slices
    return said


def compile_backend_json(said: Mapping[str, Any], own: Path | None = None) -> str:
    shape: Any = {name: list if isinstance(value, list) else type(value) for name, value in said.items()}
    return render("qnn/qnn_compile_backend.json.j2", {"settings": dict(said)}, result="json", shape=shape, own=own)


def compiler_config_json(config_file: str, library: str, own: Path | None = None) -> str:
    shape: Any = {"backend_extensions": {"config_file_path": str, "shared_library_path": str}}
    said = {"config_file": config_file, "library": library}
    return render("qnn/qnn_compiler_config.json.j2", said, result="json", shape=shape, own=own)


def data_format_json(signature: IoSignature, entries: Sequence[Specialization], own: Path | None = None) -> str:
    """Keys and values in MXINT8. In a DLC, names have no dots."""
    states = [state for state in signature.states if state.kind in _CACHE]
    names = [*(state.name for state in states), *(state.output for state in states)]
    said = {
        "graphs": graph_names(entries),
        "tensors": [name.replace(".", "_") for name in names],
        "format": "QNN_TENSOR_DATA_FORMAT_MX",
    }
    shape: Any = {"graphs": [{"graph_name": str, "tensors": [{"tensor_name": str, "dataFormat": str}]}]}
    return render("qnn/qnn_data_format_config.json.j2", said, result="json", shape=shape, own=own)


def tensor_slicing_json(devices: int, own: Path | None = None) -> str:
    shape: Any = {
        "connections": [{"devices": [int], "type": str}],
        "partitions": [{"name": str, "devices": [{"deviceId": int}]}],
    }
    said = {"devices": list(range(devices))}
    return render("qnn/tensor_slicing.json.j2", said, result="json", shape=shape, own=own)


def compile_script(
    commands: Sequence[Sequence[str]], weights: Sequence[str], outputs: Sequence[str], own: Path | None = None
) -> str:
    """A shell script that says the commands; `weights` are the files that must lie beside it."""
    said = {"commands": [list(command) for command in commands], "weights": list(weights), "outputs": list(outputs)}
    return render("qnn/compile.sh.j2", said, own=own)
