"""BuildSpec -> the steps to a package for Cloud AI 100 by QNN: lower, render, compile, package."""

from __future__ import annotations

from typing import Any

from qeffbuild.backends.qnn.aic.sdk import BACKEND, CONVERTER, DEFAULT_SDK, EXTENSIONS, GENERATOR, SDK_ENV
from qeffbuild.cloud_ai_100.plan import GRAPH_TOOLS, RENDERS, lower, package
from qeffbuild.cloud_ai_100.plan import rooms as shared
from qeffbuild.cloud_ai_100.requests import is_continuous
from qeffbuild.paths import resource_dir
from qeffbuild.plan.resolve import model_leaves
from qeffbuild.plan.types import Leaf, Step, params_of
from qeffbuild.spec.types import BuildSpec

_ROOM = "qeffbuild.backends.qnn.aic"
_TOLD = ("num_cores", "mos", "aic_enable_depth_first", "allow_mxint8_mdp_io", "stats_level")


def steps(spec: BuildSpec, graph: str) -> tuple[Step, ...]:
    return (lower(spec, graph), _render(spec, graph), _compile(spec, graph), package(spec, target="aic"))


def _render(spec: BuildSpec, graph: str) -> Step:
    options = spec.backend.options
    params: dict[str, Any] = {
        "options": {name: getattr(options, name) for name in _TOLD},
        "sdk": options.sdk,  # the documents say where its libraries are
        "specialization": params_of(spec.specialization),
        "continuous_batching": is_continuous(spec),
        **_quantization(spec),
        "num_devices": spec.device_group.size,
    }
    named = {"config": options.config, "templates": options.templates, "dlc": options.dlc_file}
    return Step(
        name="render",
        action=f"{_ROOM}.render",
        params=params,
        reads={
            "options": "backend",
            "sdk": "backend.sdk",
            "specialization": "specialization",
            "continuous_batching": "specialization.continuous_batching",
            **{name: f"quantization.{name}" for name in _quantization(spec)},
            "num_devices": "device_group.devices",
        },
        inputs={"graph": "lower", "exported": graph},
        leaves=(
            Leaf(name="packaged_templates", path=str(resource_dir("templates") / "qnn")),
            *(Leaf(name=name, path=path) for name, path in named.items() if path is not None),
        ),
        code=(
            *(
                "qeffbuild.rendering",
                "qeffbuild.signature",
                "qeffbuild.spec.types",
                "qeffbuild.graph",
                "qeffbuild.package",
            ),
            *("qeffbuild.graphs", "qeffbuild.spec.for_task"),
            *shared(*RENDERS),
            *_rooms("command", "documents", "overrides", "sdk"),
        ),
        tools=("jinja2", "onnx", "onnx-ir", "pyyaml"),
        env=(SDK_ENV,),
    )


def _compile(spec: BuildSpec, graph: str) -> Step:
    root, dlc = spec.backend.options.sdk or DEFAULT_SDK, spec.backend.options.dlc_file
    parts = {"converter": CONVERTER, "generator": GENERATOR, "library": BACKEND, "extensions": EXTENSIONS}
    return Step(
        name="compile",
        action=f"{_ROOM}.compile",
        params={"sdk": spec.backend.options.sdk},
        reads={"sdk": "backend.sdk"},
        inputs={"documents": "render", "model": "fetch", "exported": graph},
        leaves=(
            *(Leaf(name=name, path=f"{root}/{path}") for name, path in parts.items()),
            *((Leaf(name="dlc", path=dlc),) if dlc else ()),
            *model_leaves(spec.model),
        ),
        code=(
            "qeffbuild.graph",
            "qeffbuild.executor.command",
            *shared("folder", "names"),
            *_rooms("command", "overrides", "sdk"),
        ),
        tools=GRAPH_TOOLS,
        env=(SDK_ENV,),
    )


def _quantization(spec: BuildSpec) -> dict[str, bool]:
    asked = spec.quantization
    return {"mxfp6_matmul": asked.mxfp6_matmul, "mxint8_kv_cache": asked.mxint8_kv_cache}


def _rooms(*names: str) -> tuple[str, ...]:
    return tuple(f"{_ROOM}.{name}" for name in names)
