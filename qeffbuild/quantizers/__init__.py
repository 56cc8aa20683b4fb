"""Quantization methods by name: each is a file beside this one, and what planning asks of them.

A method's file says `BITS` (its default), `CHOICES` (what it can have), `BLOCK_SIZE`, whether it is `CALIBRATED` on a
text, and has `quantize`.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from qeffbuild.errors import SpecError
from qeffbuild.plan.resolve import model_leaves
from qeffbuild.plan.types import Leaf, Step
from qeffbuild.spec.types import BuildSpec, QuantizationSpec

BLOCK_SIZES = (16, 32, 64, 128, 256)  # what MatMulNBits takes
OWN_FORMS = ("attention_bits", "attention_block_size", "query_block_size", "down_block_size", "head_block_size")
_SENSITIVITY_TOKENS = 2048  # each weight goes its own way with them
_CODE = ("calibration", "graph", "graphs", "models", "package", "quantizers", "signature")
_TOOLS = ("ml-dtypes", "numpy", "onnx", "onnx-ir")


def names() -> tuple[str, ...]:
    """Every method that can be named, sorted."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py")))  # __init__ is no method


def find(method: str) -> ModuleType:
    """The module of one method. Importing it is cheap: numpy waits for the first tensor."""
    if method in names():
        return import_module(f"{__name__}.{method}")
    close = difflib.get_close_matches(method, names(), n=1)
    hint = f"did you mean quantization={close[0]}?" if close else f"methods here: none, {', '.join(names())}"
    raise SpecError("spec.choice", f"quantization.method: no method is called {method!r}", hint=hint)


def bits_of(method: str) -> int:
    return find(method).BITS


def block_size_of(method: str) -> int:
    """Weights that share a scale when the spec does not say."""
    return find(method).BLOCK_SIZE


def makes_blocks(asked: QuantizationSpec) -> bool:
    """Whether weights become integers in blocks, and no format is emulated beside them."""
    return asked.kv_cache != "mxint8" and asked.method != "none" and hasattr(find(asked.method), "quantize")


def check(asked: QuantizationSpec) -> None:
    """Refuses what the method does not have."""
    method = None if asked.method == "none" else find(asked.method)
    if asked.budget is not None and (method is None or not hasattr(method, "quantize") or 4 not in method.CHOICES):
        raise _conflict(
            "budget", f"{asked.budget}, but method {asked.method} has no 4 bits to go up from", "quantization=auto"
        )
    if method is None:
        return
    if asked.bits is not None and asked.bits not in method.CHOICES:
        choices = " or ".join(map(str, method.CHOICES))
        hint = f"quantization.bits={method.BITS}" if len(method.CHOICES) > 1 else "leave quantization.bits out"
        raise _conflict("bits", f"{asked.bits}, but method {asked.method} has {choices}", hint)
    if asked.budget is not None and asked.bits == 8:
        raise _conflict("budget", f"{asked.budget}, but quantization.bits=8 leaves nothing to raise", "leave one out")
    speed = "=32 for accuracy, 128 for speed"
    for name, possible, hint in (
        ("block_size", BLOCK_SIZES, speed),
        ("attention_block_size", BLOCK_SIZES, speed),
        ("query_block_size", BLOCK_SIZES, speed),
        ("down_block_size", BLOCK_SIZES, speed),
        ("head_block_size", BLOCK_SIZES, speed),
        ("attention_bits", (4, 8), "=8"),
    ):
        value = getattr(asked, name)
        if value is not None and not hasattr(method, "quantize"):
            raise _conflict(name, f"{value}, but method {asked.method} has its own", "leave it out")
        if value not in (None, *possible):
            some = ", ".join(map(str, possible))
            raise _conflict(name, f"{value} is not one of {some}", f"quantization.{name}{hint}")
    if not asked.symmetric and not hasattr(method, "quantize"):
        raise _conflict("symmetric", f"false, but method {asked.method} has no zero points", "leave it out")


def _conflict(key: str, what: str, hint: str) -> SpecError:
    return SpecError("spec.conflict", f"quantization.{key}: {what}", hint=hint)


def params(asked: QuantizationSpec) -> dict[str, Any]:
    """What of the quantization changes weights or cache, with the method's own defaults filled in."""
    said: dict[str, Any] = {"method": asked.method}
    if asked.kv_cache != "float":
        said["kv_cache"] = asked.kv_cache
    if asked.method != "none":
        method = find(asked.method)
        said |= {
            "bits": asked.bits or method.BITS,
            "block_size": asked.block_size or method.BLOCK_SIZE,
            "symmetric": asked.symmetric,
            "keep": list(asked.keep),
        }
        for name in OWN_FORMS:
            if getattr(asked, name) not in (None, said[name.split("_", 1)[1]]):
                said[name] = getattr(asked, name)
    if asked.budget is not None:
        said["budget"] = asked.budget
    return said | ({"calibration_tokens": asked.calibration_tokens} if needs_text(asked) else {})


def steps(spec: BuildSpec, graph: str, runner: str) -> tuple[Step, ...]:
    """What comes between the neutral graph, which the step `graph` gives, and the quantized one.

    `runner` is the distribution that calibration runs pieces of the graph with.
    """
    asked = spec.quantization
    if asked.method == "none" and asked.kv_cache == "float":
        return ()
    said, text = params(asked), needs_text(asked)
    leaf = (Leaf(name="calibration", path=asked.calibration),) if text else ()
    shared: dict[str, Any] = {
        "leaves": (*model_leaves(spec.model), *leaf),
        "code": tuple(f"qeffbuild.{room}" for room in _CODE),
        "tools": (*_TOOLS, *((runner, "transformers") if text else ())),
    }
    inputs = {"graph": graph, "model": "fetch"}
    quantize = Step(
        name="quantize",
        action="qeffbuild.actions.quantize",
        params=said,
        reads={name: f"quantization.{name}" for name in said},
        inputs={**inputs, **({"sensitivity": "sensitivity"} if asked.budget is not None else {})},
        **shared,
    )
    if asked.budget is None:
        return (quantize,)
    of_sensitivity = {
        "block_size": said["block_size"],
        "keep": said["keep"],
        "calibration_tokens": min(asked.calibration_tokens, _SENSITIVITY_TOKENS),
    }
    sensitivity = Step(
        name="sensitivity",
        action="qeffbuild.actions.sensitivity",
        params=of_sensitivity,
        reads={name: f"quantization.{name}" for name in of_sensitivity},
        inputs=inputs,
        **shared,
    )
    return (sensitivity, quantize)


def needs_text(asked: QuantizationSpec) -> bool:
    """Whether something is measured on the calibration text."""
    calibrated = asked.method != "none" and find(asked.method).CALIBRATED
    return bool(calibrated or asked.budget is not None or asked.kv_cache == "int8")
