"""BuildSpec -> the steps to a Hexagon package: quantize or calibrate where asked, lower, a compile each, package."""

from __future__ import annotations

from typing import Any

from qeffbuild import quantizers
from qeffbuild.backends.qnn.htp.chips import ARCHITECTURE
from qeffbuild.backends.qnn.htp.requests import rows_of
from qeffbuild.backends.qnn.htp.wheel import DISTRIBUTION
from qeffbuild.plan.resolve import model_leaves
from qeffbuild.plan.types import Leaf, Step, params_of
from qeffbuild.spec.types import BuildSpec

_ROOM = "qeffbuild.backends.qnn.htp"
_GRAPH_TOOLS = ("ml-dtypes", "numpy", "onnx", "onnx-ir")
_COMPILING = ("comparing", "placing", "products", "provider", "shapes", "wheel")
_RUNTIME = (DISTRIBUTION.removesuffix("-qnn"), DISTRIBUTION)


def steps(spec: BuildSpec, graph: str) -> tuple[Step, ...]:
    quantize = quantizers.steps(spec, graph, runner=_RUNTIME[0])
    lower = Step(
        name="lower",
        action=f"{_ROOM}.lower",
        inputs={"graph": quantize[-1].name if quantize else graph},
        code=("qeffbuild.graph", "qeffbuild.signature"),
        tools=_GRAPH_TOOLS,
    )
    calibrate = (_calibrate(spec, graph),) if spec.backend.options.precision == "a16w8" else ()
    groups = [phases(spec)] if spec.backend.options.weight_sharing else [[phase] for phase in phases(spec)]
    compiles = tuple(_compile(spec, graph, group) for group in groups)
    return (*quantize, lower, *calibrate, *compiles, _package(spec, compiles))


def phases(spec: BuildSpec) -> list[dict[str, Any]]:
    """A prefill of one token is a decode."""
    length = spec.specialization.prefill_seq_len
    prefill = [] if length == 1 else [{"name": "prefill", "seq_len": length}]
    return [*prefill, {"name": "decode", "seq_len": 1}]


def _calibrate(spec: BuildSpec, graph: str) -> Step:
    text = spec.backend.options.calibration_file or spec.model.eval_file
    assert text is not None, "check refuses a16w8 without a text"
    return Step(
        name="calibrate",
        action=f"{_ROOM}.calibrate",
        params={"seq_len": spec.specialization.prefill_seq_len, "ctx_len": spec.specialization.ctx_len},
        reads={"seq_len": "specialization.prefill_seq_len", "ctx_len": "specialization.ctx_len"},
        inputs={"graph": "lower", "model": "fetch", "exported": graph},
        leaves=(*model_leaves(spec.model), Leaf(name="text", path=text)),
        code=("qeffbuild.graph", "qeffbuild.models", "qeffbuild.signature", *_rooms("products", "provider", "wheel")),
        tools=(*_GRAPH_TOOLS, _RUNTIME[0], "tokenizers", "transformers"),
    )


def _chip(spec: BuildSpec) -> dict[str, Any]:
    options = spec.backend.options
    soc = options.soc_model
    return {"soc_model": soc, "htp_arch": ARCHITECTURE[soc], "vtcm_mb": options.vtcm_mb}


def _sizes(spec: BuildSpec) -> dict[str, int]:
    return {"batch_size": rows_of(spec), "ctx_len": spec.specialization.ctx_len}


def _compile(spec: BuildSpec, graph: str, group: list[dict[str, Any]]) -> Step:
    options = spec.backend.options
    told = ("optimization", "precision", "weight_sharing", "dlc", "tolerance")
    params = {
        "phases": group,
        **_sizes(spec),
        **_chip(spec),
        **{name: getattr(options, name) for name in told},
    }
    inputs = {"graph": "lower", "model": "fetch", "exported": graph}
    if spec.quantization.method != "none":
        inputs["quantized"] = "quantize"
    if options.precision == "a16w8":
        inputs["ranges"] = "calibrate"
    return Step(
        name="compile" if options.weight_sharing else f"compile[{group[0]['name']}]",
        action=f"{_ROOM}.compile",
        params=params,
        reads={
            "phases": "specialization.prefill_seq_len",
            "batch_size": "specialization.batch_size",
            "ctx_len": "specialization.ctx_len",
            **{name: f"backend.{name}" for name in (*_chip(spec), *told)},
        },
        inputs=inputs,
        leaves=model_leaves(spec.model),
        code=("qeffbuild.graph", *_rooms(*_COMPILING)),
        tools=(*_GRAPH_TOOLS, "onnxscript", *_RUNTIME),
        isolated=True,
    )


def _package(spec: BuildSpec, compiles: tuple[Step, ...]) -> Step:
    shapes = params_of(spec.specialization)
    options = spec.backend.options
    params = {
        "backend": "qnn",
        "target": "htp",
        "phases": phases(spec),
        "sizes": _sizes(spec),
        "chip": _chip(spec),
        "weight_sharing": options.weight_sharing,
        "specialization": shapes,
        "quantization": {**quantizers.params(spec.quantization), "precision": options.precision},
    }
    return Step(
        name="package",
        action=f"{_ROOM}.package",
        params=params,
        reads={
            "backend": "backend",
            "target": "backend.target",
            "phases": "specialization.prefill_seq_len",
            "sizes": "specialization",
            "chip": "backend.soc_model",
            "weight_sharing": "backend.weight_sharing",
            "specialization": "specialization",
            "quantization": "quantization",
        },
        inputs={
            "graph": "lower",
            "model": "fetch",
            **{f"compiled{number}": step.name for number, step in enumerate(compiles)},
        },
        leaves=model_leaves(spec.model),
        code=(
            *("qeffbuild.graph", "qeffbuild.models", "qeffbuild.package", "qeffbuild.signature"),
            *_rooms("compile", "session", *_COMPILING),
        ),
        tools=("numpy", *_RUNTIME, "tokenizers", "transformers"),
        isolated=True,
    )


def _rooms(*names: str) -> tuple[str, ...]:
    return tuple(f"{_ROOM}.{name}" for name in names)
