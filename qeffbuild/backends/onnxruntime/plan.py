"""BuildSpec -> the steps from a neutral graph to a package for ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qeffbuild import quantizers
from qeffbuild.plan.resolve import model_leaves
from qeffbuild.plan.types import Step, params_of
from qeffbuild.spec.types import BuildSpec

_ROOM = "qeffbuild.backends.onnxruntime"
_SESSION = f"{_ROOM}.session"  # packaging ends with a run in it
_FAST_BLOCKS = 128
_CALIBRATED_BLOCKS = 256  # a fifth faster again, at a loss that rounding with a text in view makes good
_GRAPH_CODE = ("qeffbuild.graph", "qeffbuild.graphs", "qeffbuild.signature")
_GRAPH_TOOLS = ("ml-dtypes", "numpy", "onnx", "onnx-ir")


def steps(spec: BuildSpec, graph: str) -> tuple[Step, ...]:
    """`graph` is the step that gives the neutral graph. Quantize, lower, package; the form for prompts besides."""
    spec = _with_blocks(spec)
    quantize = quantizers.steps(spec, graph, runner="onnxruntime")
    lower = _lower(spec, "lower", quantize[-1].name if quantize else graph)
    package = _package(spec, graph, bool(quantize))
    if spec.backend.options.profile != "fast" or not quantizers.makes_blocks(spec.quantization):
        return (*quantize, lower, package)
    inputs = {**package.inputs, "prefill": "lower[prefill]", "rowwise": "quantize[prefill]"}
    prefill = (_rowwise(spec, graph), _lower(spec, "lower[prefill]", "quantize[prefill]"))
    return (*quantize, lower, *prefill, replace(package, inputs=inputs))


def _with_blocks(spec: BuildSpec) -> BuildSpec:
    """Larger blocks, which decode faster and are smaller, unless accuracy or the user has said otherwise."""
    asked = spec.quantization
    if spec.backend.options.profile == "accurate" or not quantizers.makes_blocks(asked) or asked.block_size is not None:
        return spec
    is_calibrated = quantizers.find(asked.method).CALIBRATED and asked.bits != 8
    block_size = _CALIBRATED_BLOCKS if is_calibrated else _FAST_BLOCKS
    return replace(spec, quantization=replace(asked, block_size=block_size))


def _rowwise(spec: BuildSpec, graph: str) -> Step:
    return Step(
        name="quantize[prefill]",
        action=f"{_ROOM}.rowwise",
        params={"keep": list(spec.quantization.keep)},
        reads={"keep": "quantization.keep"},
        inputs={"graph": graph, "model": "fetch"},
        leaves=model_leaves(spec.model),
        code=_GRAPH_CODE,
        tools=_GRAPH_TOOLS,
    )


def _lower(spec: BuildSpec, name: str, graph: str) -> Step:
    # The form for prompts is not made of the graph that was quantized, but writes the same cache.
    options = spec.backend.options
    kv_scales = {"kv_scales": "quantize"} if spec.quantization.kv_cache == "int8" and graph != "quantize" else {}
    return Step(
        name=name,
        action=f"{_ROOM}.lower",
        params={"attention": options.attention, "recurrence": options.recurrence},
        reads={"attention": "backend.attention", "recurrence": "backend.recurrence"},
        inputs={"graph": graph, **kv_scales},
        code=(
            "qeffbuild.calibration",
            *_GRAPH_CODE,
            "qeffbuild.package",
            *(
                f"{_ROOM}.{name}"
                for name in ("activations", "attention", "masks", "norms", "packing", "rotary", "rows")
            ),
        ),
        tools=_GRAPH_TOOLS,
    )


def _package(spec: BuildSpec, graph: str, quantized: bool) -> Step:
    shapes = params_of(spec.specialization)
    params: dict[str, Any] = {
        "backend": "onnxruntime",
        "session": _SESSION,
        "allow_nonfinite": spec.model.allow_nonfinite,
        "quantization": quantizers.params(spec.quantization) if quantized else {"method": "none"},
        "specialization": shapes,
    }
    return Step(
        name="package",
        action="qeffbuild.actions.package",
        params=params,
        reads={
            "backend": "backend",
            "quantization": "quantization",
            "specialization": "specialization",
            "allow_nonfinite": "model.allow_nonfinite",
        },
        # Weights stay where they are until here: in the checkpoint, beside the export, or beside the quantized graph.
        inputs={
            "graph": "lower",
            "model": "fetch",
            "exported": graph,
            **({"quantized": "quantize"} if quantized else {}),
        },
        leaves=model_leaves(spec.model),
        code=(*_GRAPH_CODE, "qeffbuild.models", "qeffbuild.package", _SESSION),
        tools=(*_GRAPH_TOOLS, "tokenizers", "transformers"),
    )
