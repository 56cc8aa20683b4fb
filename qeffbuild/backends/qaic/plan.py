"""BuildSpec -> the steps from a neutral graph to a package for Cloud AI 100: lower, render, compile, package."""

from __future__ import annotations

from typing import Any

from qeffbuild.backends.qaic.command import COMPILER, COMPILER_ENV
from qeffbuild.cloud_ai_100.plan import GRAPH_TOOLS, RENDERS, lower, package
from qeffbuild.cloud_ai_100.plan import rooms as shared
from qeffbuild.cloud_ai_100.requests import is_continuous
from qeffbuild.paths import resource_dir
from qeffbuild.plan.resolve import model_leaves
from qeffbuild.plan.types import Leaf, Step, params_of
from qeffbuild.spec.types import BuildSpec

_ROOM = "qeffbuild.backends.qaic"

# Options that say where something is found: what is found there is a leaf of its own.
_PLACES = ("compiler", "templates", "node_precision_info", "mdp_load_partition_config", "mdp_compiler_dump_path")


def steps(spec: BuildSpec, graph: str) -> tuple[Step, ...]:
    """`graph` is the step that gives the neutral graph."""
    return (
        lower(spec, graph, sub_functions=spec.backend.options.sub_functions),
        _render(spec, graph),
        _compile(spec, graph),
        package(spec),
    )


def _render(spec: BuildSpec, graph: str) -> Step:
    options = spec.backend.options
    said = {name: value for name, value in params_of(options).items() if name not in _PLACES}
    params: dict[str, Any] = {
        "options": said,
        "specialization": params_of(spec.specialization),
        "continuous_batching": is_continuous(spec),
        "mxfp6_matmul": spec.quantization.mxfp6_matmul,
        "mxint8_kv_cache": spec.quantization.mxint8_kv_cache,
        "dtype": spec.model.dtype,
        "num_devices": spec.device_group.size,
        "mdp_num_partitions": spec.device_group.mdp_num_partitions,
    }
    return Step(
        name="render",
        action=f"{_ROOM}.render",
        params=params,
        reads={
            "options": "backend",
            "specialization": "specialization",
            "continuous_batching": "specialization.continuous_batching",
            "mxfp6_matmul": "quantization.mxfp6_matmul",
            "mxint8_kv_cache": "quantization.mxint8_kv_cache",
            "dtype": "model.dtype",
            "num_devices": "device_group.devices",
            "mdp_num_partitions": "device_group.mdp_num_partitions",
        },
        inputs={"graph": "lower", "exported": graph},
        leaves=(
            # A document is as its template is.
            Leaf(name="packaged_templates", path=str(resource_dir("templates") / "qaic")),
            *_named_files(options),
        ),
        code=(
            "qeffbuild.package",
            "qeffbuild.rendering",
            "qeffbuild.graphs",
            "qeffbuild.signature",
            "qeffbuild.spec.types",
            "qeffbuild.graph",
            "qeffbuild.spec.for_task",
            *shared(*RENDERS),
            *_rooms("options", "documents", "command", "machine", "pipeline"),
        ),
        tools=("jinja2", "onnx", "onnx-ir", "pyyaml"),
    )


def _named_files(options: Any) -> tuple[Leaf, ...]:
    named = {
        "templates": options.templates,
        "node_precision_info": options.node_precision_info,
        "mdp_load_partition_config": options.mdp_load_partition_config,
        "mdp_compiler_dump_path": options.mdp_compiler_dump_path,
    }
    return tuple(Leaf(name=name, path=path) for name, path in named.items() if path is not None)


def _compile(spec: BuildSpec, graph: str) -> Step:
    return Step(
        name="compile",
        action=f"{_ROOM}.compile",
        # The documents and the command line say all that the compiler is told.
        params={"compiler_is_named": spec.backend.options.compiler is not None},
        reads={"compiler_is_named": "backend.compiler"},
        inputs={"documents": "render", "model": "fetch", "exported": graph},
        leaves=(Leaf(name="compiler", path=spec.backend.options.compiler or COMPILER), *model_leaves(spec.model)),
        code=(
            "qeffbuild.graph",
            "qeffbuild.executor.command",
            *shared("folder", "names"),
            *_rooms("command", "compiler"),
        ),
        tools=GRAPH_TOOLS,
        env=(COMPILER_ENV,),
    )


def _rooms(*names: str) -> tuple[str, ...]:
    return tuple(f"{_ROOM}.{name}" for name in names)
