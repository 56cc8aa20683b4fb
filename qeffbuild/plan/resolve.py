"""BuildSpec + goal -> Plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from qeffbuild.errors import SpecError
from qeffbuild.plan.gates import gated
from qeffbuild.plan.passes import STEP, transform
from qeffbuild.plan.types import GOALS, Goal, Leaf, Plan, Step

if TYPE_CHECKING:
    from qeffbuild.spec.types import BuildSpec, ModelSpec

# What a backend says about its part: (spec, name of the step that gives the neutral graph) -> steps, "package" last.
BackendSteps = Callable[["BuildSpec", str], tuple[Step, ...]]

# Where each goal stops. A backend may have several steps of one kind: compile[prefill], compile[decode].
_KINDS: dict[Goal, tuple[str, ...]] = {
    "export": ("export",),
    "render": ("render",),
    "compile": ("compile",),
    "package": ("package",),
}


# What of a model's choice the neutral graph depends on; its task is a fact by then.
_EXPORTED = ("dtype", "pooling", "normalize", "kv_offload", "trust_remote_code")


def resolve(spec: BuildSpec, goal: Goal, backend_steps: BackendSteps) -> Plan:
    """The steps that lead to `goal`, each after the steps that it reads. Pure: nothing is read, nothing runs."""
    if goal not in GOALS:
        raise SpecError("spec.choice", f"--to {goal}: no such goal", hint=f"one of: {', '.join(GOALS)}")
    front, passes = _front(spec), transform(spec, "export", model_leaves(spec.model))
    steps = (*front, *backend_steps(spec, "export")) if passes is None else (*front, passes, *backend_steps(spec, STEP))
    steps = tuple(_remembering(spec, step) if _kind(step) == "package" else step for step in steps)
    steps = gated(spec, steps, model_leaves(spec.model))
    goals = tuple(step.name for step in steps if _kind(step) in _KINDS[goal])
    if not goals:
        kinds = dict.fromkeys(_kind(step) for step in steps)
        stops = ", ".join(kind for kind in kinds if kind in GOALS)
        raise SpecError("spec.conflict", f"--to {goal}: this backend has no such step", hint=f"it stops at: {stops}")
    return Plan(_needed(steps, goals), goals)


def _kind(step: Step) -> str:
    return step.name.partition("[")[0]


def _remembering(spec: BuildSpec, step: Step) -> Step:
    """A package says by which choices it was made, so that it can be made again."""
    from qeffbuild.spec.choices import choices  # a plan that is only looked up never needs the spec's types

    said = {"choices": choices(spec)}
    return replace(step, params={**step.params, **said}, reads={**step.reads, "choices": ""})


def _front(spec: BuildSpec) -> tuple[Step, Step, Step]:
    """What every backend starts from: the model's facts, a look at them, and the neutral graph."""
    model, shapes, devices = spec.model, spec.specialization, spec.device_group
    fetch = Step(
        name="fetch",
        action="qeffbuild.actions.fetch",
        params=_origin(model),
        reads={
            "scale": "model.scale",
            "model_type": "model.model_type",
            "task": "model.task",
            "pooling": "model.pooling",
            "allow_pickle": "model.allow_pickle",
            "trust_remote_code": "model.trust_remote_code",
        },
        leaves=model_leaves(model),
        code=("qeffbuild.models",),
        tools=_makers(model),
    )
    check = Step(
        name="check",
        action="qeffbuild.actions.check",
        params={
            "trust_remote_code": model.trust_remote_code,
            "allow_pickle": model.allow_pickle,
            "allow_nonfinite": model.allow_nonfinite,
            "allow_extended_context": model.allow_extended_context,
            "kv_head_replication": model.kv_head_replication,
            "ctx_len": shapes.ctx_len,
            "seq_len": list(shapes.seq_len),
            "num_devices": 1 if devices.allow_uneven else devices.size,
            "mdp_num_partitions": 1 if devices.allow_uneven else devices.mdp_num_partitions,
        },
        reads={
            "ctx_len": "specialization.ctx_len",
            "seq_len": "specialization.seq_len",
            "num_devices": "device_group.devices",
            "mdp_num_partitions": "device_group.mdp_num_partitions",
            "trust_remote_code": "model.trust_remote_code",
            "allow_pickle": "model.allow_pickle",
            "allow_nonfinite": "model.allow_nonfinite",
            "allow_extended_context": "model.allow_extended_context",
            "kv_head_replication": "model.kv_head_replication",
        },
        inputs={"model": "fetch"},
        leaves=model_leaves(model),
        code=("qeffbuild.models",),
        tools=("transformers",),
    )
    return fetch, check, _export(spec)


def _export(spec: BuildSpec) -> Step:
    """The neutral graph, or graphs."""
    model, shapes = spec.model, spec.specialization
    return Step(
        name="export",
        action="qeffbuild.actions.export",
        params={
            **{name: getattr(model, name) for name in _EXPORTED},
            "img_size": list(shapes.img_size),
            "max_num_images": shapes.max_num_images,
        },
        reads={
            **{name: f"model.{name}" for name in _EXPORTED},
            "img_size": "specialization.img_size",
            "max_num_images": "specialization.max_num_images",
        },
        inputs={"model": "fetch"},
        # The graph points at weights by file and offset: other weights in the same places give the same graph.
        # What becomes of an image is for its processor to say; of a model with code of its own, for that.
        narrow={"model": ("facts.json", "processor.zip", "code.zip")},
        after=("check",),
        code=(
            "qeffbuild.export",
            "qeffbuild.architectures",
            "qeffbuild.models",
            "qeffbuild.graph",
            "qeffbuild.graphs",
            "qeffbuild.signature",
        ),
        tools=("torch", "transformers", "onnx", "onnxscript", "onnx-ir"),
    )


def _makers(model: ModelSpec) -> tuple[str, ...]:
    """What writes the model anew on its way in."""
    if model.scale == "tiny":
        return ("torch", "transformers")
    return ("gguf", "transformers") if (model.path or "").endswith(".gguf") else ()


def _origin(model: ModelSpec) -> dict[str, object]:
    if model.scale == "tiny":
        return {"scale": "tiny", "model_type": model.model_type, "task": model.task, "seed": 0}
    return {
        "scale": "full",
        "task": model.task,
        "pooling": model.pooling,
        "allow_pickle": model.allow_pickle,
        "trust_remote_code": model.trust_remote_code,
    }


def model_leaves(model: ModelSpec) -> tuple[Leaf, ...]:
    """The model's folder or pinned hub commit; a tiny random model is made, not read."""
    if model.scale == "tiny":
        return ()
    return (Leaf(name="model", path=model.path or f"hub:{model.id}@{model.revision}"),)


def _needed(steps: tuple[Step, ...], goals: tuple[str, ...]) -> tuple[Step, ...]:
    """Those of `steps` that the goals read or wait for, in the given order."""
    by_name = {step.name: step for step in steps}
    wanted: set[str] = set()
    todo = list(goals)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += [*by_name[name].inputs.values(), *by_name[name].after]
    return tuple(step for step in steps if step.name in wanted)
