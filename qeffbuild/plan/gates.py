"""The steps of a build -> the same with gates: each holds a graph that one step gives against PyTorch.

fast gates the graphs that a build ends with; full gates every graph on the way, on more text. What follows the
last gate waits for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from qeffbuild.plan.types import Leaf, Step

if TYPE_CHECKING:
    from qeffbuild.spec.types import BuildSpec

REFERENCE = "reference"
_EDGES = ("export", "transform", "widen", "quantize", "lower")
_WAITING: Mapping[str, tuple[str, ...]] = {"fast": ("compile", "package"), "full": ("render", "compile", "package")}
_RUNNER = "onnxruntime"  # runs graphs here, whatever backend they are for: another version may compute otherwise
_GRAPH_TOOLS = ("ml-dtypes", "numpy", "onnx", "onnx-ir", _RUNNER, "safetensors")
_GRAPH_CODE = ("qeffbuild.gate", "qeffbuild.graph", "qeffbuild.graphs", "qeffbuild.signature")


def gated(spec: BuildSpec, steps: tuple[Step, ...], leaves: tuple[Leaf, ...]) -> tuple[Step, ...]:
    """`leaves` are the model's."""
    level = spec.gate.level
    if level == "none":
        return steps
    # Behind a pass that leaves the head out there is nothing that PyTorch says, too.
    looked_at = ("export",) if spec.transforms.proxy else _EDGES
    edges = [step for step in steps if _kind(step) in looked_at]
    read = {name for step in edges for name in step.inputs.values()}
    chosen = edges if level == "full" else [step for step in edges if step.name not in read]
    by_name = {step.name: step for step in steps}
    gates = [_gate(spec, step, _behind(step, by_name), leaves) for step in chosen]
    names = {gate.name: gate.name for gate in gates}
    made = [_waiting(step, names) if _kind(step) in _WAITING[level] else step for step in steps]
    at = max(place for place, step in enumerate(made) if _kind(step) in _EDGES) + 1
    return (*made[:at], _reference(spec, leaves), *gates, *made[at:])


def _waiting(step: Step, gates: Mapping[str, str]) -> Step:
    """A package says what its gates found, so it reads them; anything else only comes after them."""
    if _kind(step) == "package":
        return replace(step, inputs={**step.inputs, **gates})
    return replace(step, after=(*step.after, *gates))


def _kind(step: Step) -> str:
    return step.name.partition("[")[0]


def _behind(edge: Step, by_name: Mapping[str, Step]) -> Iterator[Step]:
    """The steps whose graphs became this one: weights lie beside any of them."""
    while (source := edge.inputs.get("graph")) is not None and _kind(by_name[source]) in _EDGES:
        edge = by_name[source]
        yield edge


def _gate(spec: BuildSpec, edge: Step, behind: Iterator[Step], leaves: tuple[Leaf, ...]) -> Step:
    before = {_kind(step): step.name for step in behind}
    params = {
        "edge": edge.name,
        "level": spec.gate.level,
        "dtype": spec.model.dtype,
        "tolerance": spec.gate.tolerance,
        "kl": spec.gate.kl,
    }
    if _kind(edge) == "quantize":
        before["quantize"] = edge.name
    return Step(
        name=f"gate[{edge.name.replace('[', '.').rstrip(']')}]",
        action="qeffbuild.actions.gate",
        params=params,
        reads={
            "edge": "gate",
            "level": "gate.level",
            "dtype": "model.dtype",
            "tolerance": "gate.tolerance",
            "kl": "gate.kl",
        },
        inputs={"graph": edge.name, REFERENCE: REFERENCE, "model": "fetch", **before},
        leaves=leaves,
        code=(
            *_GRAPH_CODE,
            "qeffbuild.calibration",
            "qeffbuild.export",
            "qeffbuild.models",
            "qeffbuild.package",
        ),
        tools=_GRAPH_TOOLS,
    )


def _reference(spec: BuildSpec, leaves: tuple[Leaf, ...]) -> Step:
    asked = ("pooling", "normalize", "trust_remote_code")
    return Step(
        name=REFERENCE,
        action="qeffbuild.actions.reference",
        params={
            "level": spec.gate.level,
            **{name: getattr(spec.model, name) for name in asked},
            "img_size": list(spec.specialization.img_size),
            # One graph of both halves takes all images of a prompt at once.
            "images": 1 if spec.model.kv_offload else spec.specialization.max_num_images,
        },
        reads={
            "level": "gate.level",
            **{name: f"model.{name}" for name in asked},
            "img_size": "specialization.img_size",
            "images": "specialization.max_num_images",
        },
        inputs={"model": "fetch"},
        after=("check",),
        leaves=leaves,
        code=(*_GRAPH_CODE, "qeffbuild.export", "qeffbuild.models"),
        tools=("torch", "transformers", "numpy", "safetensors"),
    )
