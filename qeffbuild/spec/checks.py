"""What single values cannot say: which keys of a spec go together. Needs no fact that only the model's files know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from qeffbuild.errors import AbsentError, ModelError, QeffBuildError, SpecError
from qeffbuild.spec import matrix
from qeffbuild.spec.text import nearest, shown
from qeffbuild.spec.types import BASE, BuildSpec, DeviceGroupSpec, ModelSpec, SpecializationSpec, TransformsSpec

# Compiled by their first use: a build with nothing to do never pays for it.
_HUB_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?"
_REVISION = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
_COMMIT = r"[0-9a-f]{40}"
_ADAPTER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_MOST_ADAPTERS = 1024
_QUANTIZERS = Path(__file__).parents[1] / "quantizers"


def check(spec: BuildSpec, origins: Mapping[str, str]) -> None:
    """Raise on the first combination that cannot work; `origins` says where the key of its message stands."""
    try:
        for fault in _faults(spec):
            raise fault
        import_module("qeffbuild.backends").room(spec.backend.name, "options").check(spec)
    except QeffBuildError as error:
        error.where = error.where or origins.get(error.message.partition(":")[0])
        raise


def _fault(kind: str, key: str, what: str, hint: str, error: type[QeffBuildError] = SpecError) -> QeffBuildError:
    return error(kind, f"{key}: {what}", hint=hint)


def _faults(spec: BuildSpec) -> Iterator[QeffBuildError]:
    yield from _model(spec.model)
    yield from _quantization(spec)
    yield from _shapes(spec.specialization)
    yield from _batching(spec.specialization)
    yield from _devices(spec.device_group, spec.model)
    yield from _adapters(spec)
    yield from _sampler(spec.transforms, spec.specialization)
    yield from _blocking(spec.transforms)
    yield from _elsewhere(spec)
    yield from _speculation(spec)
    yield from _combination(spec)


def _model(model: ModelSpec) -> Iterator[QeffBuildError]:
    if model.path is not None and model.id is not None:
        hint = f"model=hf model.path={model.path}, or model=hf model.id={model.id}"
        yield _fault(
            "spec.conflict", "model.id", "a model comes from a folder (model.path) or from the hub, not both", hint
        )
    if model.scale == "tiny" and model.model_type is None:
        yield _fault(
            "spec.missing", "model.model_type", "scale=tiny makes a model of this type", "model.model_type=llama"
        )
    if model.scale == "full" and model.path is None and model.id is None:
        yield _fault(
            "spec.missing", "model.path", "no model is named", "model.path=DIR, model.id=ORG/NAME or model=demo"
        )
    if model.path == "":
        yield _fault("spec.missing", "model.path", "the folder's name is empty", "model.path=DIR")
    if model.id is not None and (not re.fullmatch(_HUB_ID, model.id) or ".." in model.id):
        hint = "a folder is named by model.path=DIR"
        yield _fault(
            "model.name", "model.id", f"{shown(model.id)} is not a name on the hub (ORG/NAME)", hint, ModelError
        )
    if model.revision is not None and (not re.fullmatch(_REVISION, model.revision) or ".." in model.revision):
        what = f"{shown(model.revision)} is neither a commit nor a branch"
        yield _fault("model.revision", "model.revision", what, "model.revision=COMMIT, 40 hex digits", ModelError)
    if model.trust_remote_code and model.id is not None and not re.fullmatch(_COMMIT, model.revision or ""):
        what = f"{shown(model.revision)} can move, and trust_remote_code would run what it moves to"
        yield _fault("model.revision", "model.revision", what, "model.revision=COMMIT, 40 hex digits", ModelError)


def _quantization(spec: BuildSpec) -> Iterator[QeffBuildError]:
    asked = spec.quantization
    if asked.method == "none":
        for name in ("bits", "block_size"):
            if getattr(asked, name) is not None:
                what = f"{getattr(asked, name)}, but nothing is quantized (method none)"
                yield _fault("spec.conflict", f"quantization.{name}", what, "choose a method: quantization=int8")
        return
    methods = sorted(file.stem for file in _QUANTIZERS.glob("[!_]*.py"))
    if asked.method not in methods:
        close = nearest(asked.method, methods)
        hint = f"did you mean quantization={close}?" if close else f"methods: none, {', '.join(methods)}"
        yield _fault("spec.choice", "quantization.method", f"no method is called {shown(asked.method)}", hint)


def _shapes(shapes: SpecializationSpec) -> Iterator[QeffBuildError]:
    prefix = "specialization"
    if shapes.prefill_seq_len > shapes.ctx_len:
        what = (
            f"a chunk of {shapes.prefill_seq_len} tokens is longer than the context, {prefix}.ctx_len={shapes.ctx_len}"
        )
        hint = f"{prefix}.prefill_seq_len={shapes.ctx_len} or less"
        yield _fault("spec.conflict", f"{prefix}.prefill_seq_len", what, hint)
    for name in ("comp_ctx_lengths_prefill", "comp_ctx_lengths_decode", "num_speculative_tokens", "seq_len"):
        values = getattr(shapes, name)
        if twice := next((value for value in values if values.count(value) > 1), None):
            yield _fault("spec.duplicate", f"{prefix}.{name}", f"{twice} is listed twice", f"name {twice} once")
    for name in ("comp_ctx_lengths_prefill", "comp_ctx_lengths_decode"):
        if (most := max(getattr(shapes, name), default=0)) > shapes.ctx_len:
            what = f"{most} is beyond the context, {prefix}.ctx_len={shapes.ctx_len}"
            yield _fault("spec.conflict", f"{prefix}.{name}", what, f"values of {shapes.ctx_len} or less")
    unused = {True: "decode", False: "prefill"}.get(shapes.prefill_only)  # type: ignore[arg-type]
    if unused and getattr(shapes, f"comp_ctx_lengths_{unused}"):
        what = f"prefill_only={str(shapes.prefill_only).lower()} leaves no {unused} graph to compile them for"
        yield _fault("spec.conflict", f"{prefix}.comp_ctx_lengths_{unused}", what, "leave one of the two out")
    if shapes.prefill_only is True and shapes.num_speculative_tokens:
        what = "speculation is verified while decoding, but prefill_only=true"
        yield _fault("spec.conflict", f"{prefix}.num_speculative_tokens", what, "leave one of the two out")
    if shapes.logits_to_keep > shapes.prefill_seq_len:
        what = f"{shapes.logits_to_keep} logits of a run of {prefix}.prefill_seq_len={shapes.prefill_seq_len} tokens"
        yield _fault("spec.conflict", f"{prefix}.logits_to_keep", what, f"{shapes.prefill_seq_len} or less; 0: of all")
    if shapes.logits_to_keep != 1 and shapes.prefill_only is False:
        what = "prefill_only=false leaves no prefill graph to keep them of"
        yield _fault("spec.conflict", f"{prefix}.logits_to_keep", what, "leave one of the two out")
    longest = max(shapes.num_speculative_tokens, default=0)
    if longest + 1 > shapes.ctx_len:
        what = f"{longest} draft tokens and one more do not fit {prefix}.ctx_len={shapes.ctx_len}"
        yield _fault("spec.conflict", f"{prefix}.num_speculative_tokens", what, f"{shapes.ctx_len - 1} or less")


def _batching(shapes: SpecializationSpec) -> Iterator[QeffBuildError]:
    prefix = "specialization"
    slots = shapes.full_batch_size
    prefills_only = shapes.prefill_only is True and shapes.kv_cache_batch_size is not None
    if shapes.continuous_batching and slots is None and not prefills_only:
        what = "continuous batching needs its number of slots"
        yield _fault("spec.missing", f"{prefix}.full_batch_size", what, f"{prefix}.full_batch_size=4")
    if slots is not None and shapes.continuous_batching is False:
        what = f"{slots} slots, but {prefix}.continuous_batching=false"
        hint = f"{prefix}.continuous_batching=true, or {prefix}.batch_size={slots} alone"
        yield _fault("spec.conflict", f"{prefix}.full_batch_size", what, hint)
    if slots is not None and shapes.batch_size != 1:
        what = f"{shapes.batch_size}, but the rows of continuous batching are full_batch_size={slots}"
        yield _fault("spec.conflict", f"{prefix}.batch_size", what, f"leave {prefix}.batch_size out")
    rows = slots if slots is not None else shapes.batch_size
    if shapes.kv_cache_batch_size is not None and shapes.kv_cache_batch_size < rows:
        what = f"{shapes.kv_cache_batch_size} cache slots are too few for {rows} rows"
        yield _fault("spec.conflict", f"{prefix}.kv_cache_batch_size", what, f"{rows} or more")


def _devices(group: DeviceGroupSpec, model: ModelSpec) -> Iterator[QeffBuildError]:
    if not group.devices:
        yield _fault("spec.empty", "device_group.devices", "no device is named", "device_group.devices=[0]")
    if twice := [device for device in dict.fromkeys(group.devices) if group.devices.count(device) > 1]:
        what = f"device {twice[0]} is listed {group.devices.count(twice[0])} times"
        yield _fault("device.duplicate", "device_group.devices", what, f"name device {twice[0]} once")
    layers = model.num_hidden_layers if model.scale == "full" else None
    if layers is not None and group.mdp_num_partitions > layers and not group.allow_uneven:
        what = f"{group.mdp_num_partitions} stages is out of range: the model has {layers} layers"
        yield _fault("spec.range", "device_group.mdp_num_partitions", what, f"1 to {layers}")
    if group.mdp_num_partitions > group.size:
        what = f"{group.mdp_num_partitions} pipeline stages, but {group.size} devices"
        yield _fault("spec.conflict", "device_group.mdp_num_partitions", what, f"{group.size} or less")
    if model.scale == "tiny" or group.allow_uneven:
        return
    if model.num_key_value_heads is not None:
        yield from _heads(group, model.num_key_value_heads, model.kv_head_replication)


def _heads(group: DeviceGroupSpec, kv_heads: int, replication: int) -> Iterator[QeffBuildError]:
    """Each tensor slice holds whole KV heads."""
    slices, heads = group.size // group.mdp_num_partitions, kv_heads * replication
    if slices <= 1 or heads % slices == 0:
        return
    allowed = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
    what = f"{slices} devices do not divide {heads} KV heads (model.num_key_value_heads={kv_heads})"
    repeat = next(times for times in range(1, slices + 1) if kv_heads * times % slices == 0)
    hint = f"use {allowed} devices, or repeat the heads: model.kv_head_replication={repeat}"
    yield _fault("spec.divides", "device_group.devices", what, hint)


def _adapters(spec: BuildSpec) -> Iterator[QeffBuildError]:
    if len(spec.adapters) > _MOST_ADAPTERS:
        what = f"{len(spec.adapters)} adapters is out of range, which is 0 to {_MOST_ADAPTERS}"
        yield _fault("spec.range", "adapters", what, "build several packages")
    for name, folder in spec.adapters.items():
        if not re.fullmatch(_ADAPTER, name) or name == BASE:
            what = f"{shown(name)} cannot be an adapter's name"
            yield _fault("spec.text", "adapters", what, f"letters, digits, - _ and . between them; not {BASE}")
        if folder == "":
            yield _fault("spec.missing", f"adapters.{name}", "the folder's name is empty", f"adapters.{name}=DIR")
    asked = spec.decoding.adapter
    if asked is not None and asked != BASE and asked not in spec.adapters:
        close = nearest(asked, [*spec.adapters, BASE])
        hint = f"did you mean decoding.adapter={close}?" if close else f"one of: {', '.join([*spec.adapters, BASE])}"
        yield _fault("spec.choice", "decoding.adapter", f"no adapter is called {shown(asked)}", hint)


def _sampler(asked: TransformsSpec, shapes: SpecializationSpec) -> Iterator[QeffBuildError]:
    if asked.include_sampler and asked.proxy:
        what = "there are no logits to choose by, with transforms.proxy=true"
        yield _fault("spec.conflict", "transforms.include_sampler", what, "leave one of them out")
    if asked.speculative_heads is not None and (asked.include_sampler or asked.proxy):
        other = "include_sampler" if asked.include_sampler else "proxy"
        what = f"it does not go with transforms.{other}=true"
        yield _fault("spec.conflict", "transforms.speculative_heads", what, "leave one of them out")
    if asked.include_sampler:
        width = shapes.prefill_seq_len
        if shapes.logits_to_keep != 1 and shapes.kept(width) == width:
            key, what = (
                "specialization.logits_to_keep",
                "the sampler knows a prefill by its having more tokens than logits",
            )
            yield _fault("spec.conflict", key, what, f"{key}={width - 1} or less" if width > 2 else f"{key}=1")
        return
    for name in ("return_pdfs", "include_guided_decoding"):
        if getattr(asked, name):
            what = "the graph has no sampler that would do it"
            yield _fault("spec.conflict", f"transforms.{name}", what, "transforms.include_sampler=true")


def _blocking(asked: TransformsSpec) -> Iterator[QeffBuildError]:
    """A size is said only of what is cut into blocks."""
    sizes = {"num_kv_blocks": "kv", "num_q_blocks": "q", "head_block_size": "h", "num_batch_blocks": "b"}
    for name, axis in sizes.items():
        if getattr(asked, name) is not None and axis not in asked.blocking_mode.replace("none", ""):
            what = f"blocking_mode={asked.blocking_mode} has no {axis} in it"
            mode = "".join(part for part in "bhq" if part == axis or part in asked.blocking_mode.replace("none", ""))
            mode += "kv" if "kv" in (axis, asked.blocking_mode[-2:]) else ""
            yield _fault("spec.conflict", f"transforms.{name}", what, f"transforms.blocking_mode={mode}")


def _elsewhere(spec: BuildSpec) -> Iterator[QeffBuildError]:
    if spec.launch.name != "local":
        what = f"steps cannot run on {spec.launch.name} yet"
        yield _fault("launch.absent", "launch.name", what, "launch=local", AbsentError)
    if spec.eval_stride is not None and spec.eval_stride >= spec.specialization.ctx_len:
        what = f"{spec.eval_stride} tokens from window to window, but one has specialization.ctx_len="
        hint = f"eval_stride={spec.specialization.ctx_len - 1} or less"
        yield _fault("spec.conflict", "eval_stride", f"{what}{spec.specialization.ctx_len}", hint)
    if spec.cache.remote is not None:
        yield _fault("remote.absent", "cache.remote", "no store is shared yet", "leave it out", AbsentError)
    if spec.prompts and spec.prompts_file is not None:
        yield _fault(
            "spec.conflict", "prompts_file", "prompts are given here and in `prompts`", "leave one of the two out"
        )


def _speculation(spec: BuildSpec) -> Iterator[QeffBuildError]:
    if spec.decoding.draft is not None and not spec.specialization.num_speculative_tokens:
        hint = "specialization.num_speculative_tokens=4"
        yield _fault("spec.conflict", "decoding.draft", "no run of this build verifies drafts", hint)


def _combination(spec: BuildSpec) -> Iterator[QeffBuildError]:
    for combination in matrix.of_spec(spec):
        verdict = matrix.verdict(combination)
        if verdict is not None and verdict.gives is None:
            yield _fault("spec.conflict", verdict.change.partition("=")[0], verdict.refused, verdict.change)
    for passing in matrix.passes_of(spec):
        if (refusal := matrix.refusal(passing)) is not None:
            yield _fault("spec.conflict", refusal.change.partition("=")[0], refusal.refused, refusal.change)
