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
_LOADING = tuple(f"{_ROOM}.{name}" for name in ("buffers", "heap", "loading", "pages", "rows", "session"))
_LOWERING = tuple(
    f"{_ROOM}.{name}"
    for name in (
        *("activations", "attention", "detours", "gathering", "masks", "norms", "packing", "rotary", "rows", "tables"),
        "tokenwise",
    )
)
_PREPACK = f"{_ROOM}.prepack"
# By profile, bits, and whether a text makes good what large blocks lose: what a spec that says nothing of it gets.
_BLOCKS: dict[tuple[str, int, str], dict[str, int]] = {
    ("accurate", 8, "none"): {"block_size": 32, "attention_block_size": 16},
    ("small", 8, "none"): {"block_size": 128},
    ("small", 8, "text"): {"block_size": 128},
    ("small", 4, "none"): {"block_size": 128},
    ("small", 4, "text"): {"block_size": 256},
    ("fast", 8, "none"): {
        "block_size": 64, "attention_block_size": 16, "down_block_size": 16, "head_block_size": 128,
    },
    ("fast", 8, "text"): {"block_size": 128},
    ("fast", 4, "none"): {"block_size": 256, "attention_bits": 8},
    ("fast", 4, "text"): {"block_size": 256},
}  # fmt: skip
_SAID = ("block_size", *quantizers.OWN_FORMS)
_SMALL_TABLES = 8
_GRAPH_CODE = ("qeffbuild.graph", "qeffbuild.graphs", "qeffbuild.signature")
_GRAPH_TOOLS = ("ml-dtypes", "numpy", "onnx", "onnx-ir")


def steps(spec: BuildSpec, graph: str) -> tuple[Step, ...]:
    """`graph` is the step that gives the neutral graph. Quantize, lower, package; the form for prompts besides."""
    spec, exported = _with_blocks(spec), graph
    widen = () if spec.model.dtype == "float32" else (_widen(graph),)
    graph = widen[0].name if widen else graph
    quantize = quantizers.steps(spec, graph, runner="onnxruntime")
    lower = _lower(spec, "lower", quantize[-1].name if quantize else graph)
    package = _package(spec, exported, bool(quantize))
    if spec.backend.options.profile != "fast" or not quantizers.makes_blocks(spec.quantization):
        return (*widen, *quantize, lower, package)
    inputs = {**package.inputs, "prefill": "lower[prefill]", "rowwise": "quantize[prefill]"}
    prefill = (_rowwise(spec, graph), _lower(spec, "lower[prefill]", "quantize[prefill]"))
    return (*widen, *quantize, lower, *prefill, replace(package, inputs=inputs))


def _with_blocks(spec: BuildSpec) -> BuildSpec:
    """Blocks as the profile has them, unless the user has said something of them.

    Large blocks decode faster. What they lose is made good by a text, or where it matters most for its size: in the
    weights into and out of attention, whose errors stay in the cache.
    """
    asked, profile = spec.quantization, spec.backend.options.profile
    if any(getattr(asked, name) for name in _SAID) or not quantizers.makes_blocks(asked):
        return spec
    method = quantizers.find(asked.method)
    form = "text" if method.CALIBRATED or asked.budget is not None else "none"
    chosen: dict[str, Any] = _BLOCKS.get((profile, asked.bits or method.BITS, form), {})
    return replace(spec, quantization=replace(asked, **chosen))


def _widen(graph: str) -> Step:
    """Nothing here computes in another dtype."""
    return Step(
        name="widen",
        action=f"{_ROOM}.widen",
        params={},
        reads={},
        inputs={"graph": graph},
        code=_GRAPH_CODE,
        tools=_GRAPH_TOOLS,
    )


def _rowwise(spec: BuildSpec, graph: str) -> Step:
    bits = spec.quantization.bits or quantizers.bits_of(spec.quantization.method)
    return Step(
        name="quantize[prefill]",
        action=f"{_ROOM}.rowwise",
        # An answer in 4 bits loses so much more that nothing would be gained.
        params={"keep": list(spec.quantization.keep), "values": "finer" if bits == 8 else "plain"},
        reads={"keep": "quantization.keep", "values": "quantization.bits"},
        inputs={"graph": graph, "model": "fetch"},
        leaves=model_leaves(spec.model),
        code=_GRAPH_CODE,
        tools=_GRAPH_TOOLS,
    )


def _lower(spec: BuildSpec, name: str, graph: str) -> Step:
    # The form for prompts is not made of the graph that was quantized, but writes the same cache.
    options = spec.backend.options
    tables, said_by = _tables(spec)
    kv_scales = {"kv_scales": "quantize"} if spec.quantization.kv_cache == "int8" and graph != "quantize" else {}
    return Step(
        name=name,
        action=f"{_ROOM}.lower",
        params={"attention": options.attention, "recurrence": options.recurrence, **tables},
        reads={"attention": "backend.attention", "recurrence": "backend.recurrence", **said_by},
        inputs={"graph": graph, **kv_scales},
        code=(
            "qeffbuild.calibration",
            *_GRAPH_CODE,
            "qeffbuild.package",
            *_LOWERING,
        ),
        tools=_GRAPH_TOOLS,
    )


def _tables(spec: BuildSpec) -> tuple[dict[str, Any], dict[str, str]]:
    """Bits of the tables that tokens are looked up in, and the key that says so; nothing where they stay floats."""
    options, name = spec.backend.options, "embedding_bits"
    if options.embedding_bits is not None:
        return {name: options.embedding_bits}, {name: f"backend.{name}"}
    if options.profile == "small" and quantizers.makes_blocks(spec.quantization):
        return {name: _SMALL_TABLES}, {name: "backend.profile"}
    return {}, {}


def _package(spec: BuildSpec, graph: str, quantized: bool) -> Step:
    shapes = params_of(spec.specialization)
    params: dict[str, Any] = {
        "backend": "onnxruntime",
        "session": _SESSION,
        "allow_nonfinite": spec.model.allow_nonfinite,
        "quantization": quantizers.params(spec.quantization) if quantized else {"method": "none"},
        "specialization": shapes,
    }
    is_prepacked = spec.backend.options.prepacked
    if is_prepacked:
        params["prepack"] = _PREPACK
    return Step(
        name="package",
        action="qeffbuild.actions.package",
        params=params,
        reads={
            "backend": "backend",
            "quantization": "quantization",
            "specialization": "specialization",
            "allow_nonfinite": "model.allow_nonfinite",
            **({"prepack": "backend.prepacked"} if is_prepacked else {}),
        },
        # Weights stay where they are until here: in the checkpoint, beside the export, or beside the quantized graph.
        inputs={
            "graph": "lower",
            "model": "fetch",
            "exported": graph,
            **({"quantized": "quantize"} if quantized else {}),
        },
        leaves=model_leaves(spec.model),
        code=(*_GRAPH_CODE, "qeffbuild.models", "qeffbuild.package", *_LOADING, *((_PREPACK,) if is_prepacked else ())),
        tools=(*_GRAPH_TOOLS, *(("onnxruntime",) if is_prepacked else ()), "tokenizers", "transformers"),
    )
