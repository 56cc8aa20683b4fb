"""BuildSpec -> the steps that every compiler for Cloud AI 100 begins and ends with: the device's graph, a package."""

from __future__ import annotations

from qeffbuild.cloud_ai_100.requests import is_continuous
from qeffbuild.plan.resolve import model_leaves
from qeffbuild.plan.types import Step, params_of
from qeffbuild.spec.types import BuildSpec, SpecializationSpec

GRAPH_TOOLS = ("ml-dtypes", "numpy", "onnx", "onnx-ir")
# What keys the other steps of either compiler: modules that copy into folders, and besides, that write documents.
BRINGS = ("bring", "finish", "images", "layers", "names", "norms", "opset17")
RENDERS = (*BRINGS, "context_lengths", "exported", "folder", "image_shapes", "reader_shapes", "specializations")
RUNS = (1, 16, 32, 64, 256)  # tokens of a run that is done without a loop, by what states it changes
_ROOM = "qeffbuild.cloud_ai_100"


def lower(spec: BuildSpec, graph: str, *, sub_functions: bool = False) -> Step:
    """`graph` is the step that gives the neutral graph; a function per kind of layer is not every compiler's option."""
    shapes, options = spec.specialization, spec.backend.options
    # Rejected drafts would have overwritten what a ring still has to show.
    keeps_full = options.retain_full_kv or bool(shapes.num_speculative_tokens)
    return Step(
        name="lower",
        action=f"{_ROOM}.lower",
        params={
            "continuous_batching": is_continuous(spec),
            "comp_ctx_lengths": bool(shapes.comp_ctx_lengths_prefill or shapes.comp_ctx_lengths_decode),
            "num_logits_to_keep": shapes.keeps_several,
            "kv_cache_prefix": options.kv_cache_prefix,
            "sub_functions": sub_functions,
            "longest_run": _longest_run(shapes),
            "rings_below": None if keeps_full else shapes.ctx_len,
        },
        reads={
            "continuous_batching": "specialization.continuous_batching",
            "comp_ctx_lengths": "specialization.comp_ctx_lengths_prefill",
            "num_logits_to_keep": _kept_by(shapes),
            "kv_cache_prefix": "backend.kv_cache_prefix",
            "sub_functions": "backend.sub_functions",
            "longest_run": "specialization.prefill_seq_len",
            "rings_below": "specialization.ctx_len",
        },
        inputs={"graph": graph},
        code=(
            "qeffbuild.graph",
            "qeffbuild.graphs",
            "qeffbuild.signature",
            *rooms(
                "cache_ops",
                "carried",
                "finish",
                "form",
                "functions",
                "images",
                "layers",
                "lower_reader",
                "merge_speech",
            ),
            *rooms("names", "norms", "opset17", "rewriting", "rings"),
        ),
        tools=GRAPH_TOOLS,
    )


def package(spec: BuildSpec, **told: str) -> Step:
    """`told` are options of the backend that its packages name."""
    asked = spec.quantization
    return Step(
        name="package",
        action=f"{_ROOM}.package",
        params={
            "backend": spec.backend.name,
            **told,
            "specialization": params_of(spec.specialization),
            "mxfp6_matmul": asked.mxfp6_matmul,
            "mxint8_kv_cache": asked.mxint8_kv_cache,
            "num_devices": spec.device_group.size,
        },
        reads={
            "backend": "backend",
            **{name: f"backend.{name}" for name in told},
            "specialization": "specialization",
            "mxfp6_matmul": "quantization.mxfp6_matmul",
            "mxint8_kv_cache": "quantization.mxint8_kv_cache",
            "num_devices": "device_group.devices",
        },
        inputs={"compiled": "compile", "documents": "render", "model": "fetch"},
        leaves=model_leaves(spec.model),
        code=(
            *("qeffbuild.graph", "qeffbuild.graphs", "qeffbuild.models", "qeffbuild.package", "qeffbuild.signature"),
            *rooms(*BRINGS),
        ),
        tools=("tokenizers", "transformers"),
    )


def _kept_by(shapes: SpecializationSpec) -> str:
    """The key by which several logits are asked for."""
    name = "logits_to_keep" if shapes.logits_to_keep != 1 else "num_speculative_tokens"
    return f"specialization.{name}"


def _longest_run(shapes: SpecializationSpec) -> int | None:
    """Rounded up, so that lengths share what is built; None where rejected drafts have to be taken back."""
    if shapes.num_speculative_tokens:
        return None
    return next((length for length in RUNS if shapes.prefill_seq_len <= length), None)


def rooms(*names: str) -> tuple[str, ...]:
    """Modules of this room, as code of a step."""
    return tuple(f"{_ROOM}.{name}" for name in names)
