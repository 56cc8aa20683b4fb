"""Options and the names of the documents -> the compiler's argument list, in its exact order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qeffbuild.backends.qaic.options import Options
from qeffbuild.cloud_ai_100.names import GRAPH, PROGRAMS, SPECIALIZATIONS
from qeffbuild.spec.types import Dtype, QuantizationSpec

COMPILER = "/opt/qti-aic/exec/qaic-compile"  # where the SDK puts it
COMPILER_ENV = "QEFFBUILD_QAIC_COMPILE"

CUSTOM_IO = "custom_io.yaml"

# Our keys that are the compiler's own words, in the order in which they are written.
PASSED_THROUGH = (
    "mos",
    "aic_enable_depth_first",
    "allow_mxint8_mdp_io",
    "stats_level",
    "node_precision_info",
    "user_tiled",
    "io_encrypt",
    "mdp_dump_partition_config",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What the compiler reads and writes, by name. `stages`: partitions of a pipeline, or a user's own."""

    graph: str = GRAPH
    specializations: str = SPECIALIZATIONS
    custom_io: str | None = CUSTOM_IO
    stages: str | None = None
    slices: str | None = None
    node_precision_info: str | None = None
    output: str = PROGRAMS


def compile_argv(
    options: Options, quantization: QuantizationSpec, dtype: Dtype, files: Files, *, has_states: bool = True
) -> list[str]:
    """The command that compiles `files.graph` into `files.output`."""
    argv = [COMPILER, "-aic-hw", f"-aic-hw-version={options.hw_version}", f"-m={files.graph}"]
    if files.stages is not None:
        argv.append(f"-mdp-load-partition-config={files.stages}")
    if has_states:
        argv.append("-retained-state")
    if not (dtype == "bfloat16" and options.hw_version == "ai200"):
        argv.append("-convert-to-fp16")
    if quantization.mxfp6_matmul:
        argv.append("-mxfp6-matmul")
    argv.append(f"-aic-num-cores={options.num_cores}")
    for name in PASSED_THROUGH:
        value = files.node_precision_info if name == "node_precision_info" else getattr(options, name)
        argv += _flag(name, value)
    argv += options.extra_args
    if options.sub_functions:
        argv.append("-sub-functions")
    if files.slices is not None:
        argv.append(f"-mdp-load-partition-config={files.slices}")
    argv.append(f"-network-specialization-config={files.specializations}")
    if files.custom_io is not None:
        argv.append(f"-custom-IO-list-file={files.custom_io}")
    return [*argv, f"-aic-binary-dir={files.output}"]


def output_of(argv: Sequence[str]) -> str:
    """The folder that a command leaves its program in."""
    flag = "-aic-binary-dir="
    return next(word.removeprefix(flag) for word in argv if word.startswith(flag))


def _flag(name: str, value: Any) -> list[str]:
    """True is a bare flag; False and null are left out."""
    flag = f"-{name.replace('_', '-')}"
    if value is None or value is False:
        return []
    return [flag] if value is True else [f"{flag}={value}"]
