"""The names of the documents and the SDK's folder -> the argument lists of the converter and the generator."""

from __future__ import annotations

from qeffbuild.backends.qnn.aic.overrides import Overrides
from qeffbuild.backends.qnn.aic.sdk import BACKEND, CONVERTER, GENERATOR
from qeffbuild.cloud_ai_100.names import GRAPH, PROGRAM, PROGRAMS

DLC = "model.dlc"
CUSTOM_IO = "custom_io_config.yaml"
COMPILE_BACKEND = "qnn_compile_backend.json"
COMPILER_CONFIG = "qnn_compiler_config.json"
DATA_FORMAT = "qnn_data_format_config.json"
SLICES = "tensor_slicing.json"

_LOG_LEVEL = "--log_level"


def converter_argv(root: str, overrides: Overrides, *, graph: str = GRAPH, prefix: str = "") -> list[str]:
    """The command that makes a DLC of the graph. `prefix` stands before the names of its documents."""
    return [
        *(f"{root}/{CONVERTER}", "--input_network", graph, "--output_path", f"{prefix}{DLC}"),
        *("--config", f"{prefix}{CUSTOM_IO}"),
        *("--float_bias_bitwidth", "32", "--float_bitwidth", "16", "--preserve_io_datatype"),
        *("--onnx_skip_simplification", "--target_backend", "AIC", *overrides.converter),
    ]


def generator_argv(root: str, overrides: Overrides, *, has_data_format: bool, prefix: str = "") -> list[str]:
    """The command that makes a program of the DLC."""
    argv = [
        *(f"{root}/{GENERATOR}", "--binary_file", "qnngraph.serialized", "--backend_binary", PROGRAM),
        *("--output_dir", f"{prefix}{PROGRAMS}", "--backend", f"{root}/{BACKEND}", "--dlc_path", f"{prefix}{DLC}"),
        *("--config_file", f"{prefix}{COMPILER_CONFIG}"),
    ]
    if has_data_format:
        argv += ["--data_format_config", f"{prefix}{DATA_FORMAT}"]
    if not any(word.partition("=")[0] == _LOG_LEVEL for word in overrides.generator):
        argv += [_LOG_LEVEL, "error"]
    return [*argv, *overrides.generator]


def made_by(argv: list[str]) -> str:
    """The file that one of the two commands leaves, relative to the folder of the documents."""
    if "--output_path" in argv:
        return argv[argv.index("--output_path") + 1]
    return f"{argv[argv.index('--output_dir') + 1]}/{PROGRAM}"
