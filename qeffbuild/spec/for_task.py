"""What a model's task, once it is known, makes of a spec: lengths of its inputs, and which keys mean nothing to it."""

from __future__ import annotations

from collections.abc import Iterator

from qeffbuild.errors import QeffBuildError, RunError, SpecError
from qeffbuild.spec import matrix
from qeffbuild.spec.types import BuildSpec, SpecializationSpec

SAMPLES = 480_000  # 30 s of sound at 16 kHz, what speech models are mostly given at once

_WITH_SEQ_LEN = frozenset({"embedding", "sequence-classification", "ctc", "text-seq2seq"})
_WITHOUT_CACHE = frozenset({"embedding", "sequence-classification", "ctc"})
_OF_A_DECODER = (
    "full_batch_size", "kv_cache_batch_size", "continuous_batching", "comp_ctx_lengths_prefill",
    "comp_ctx_lengths_decode", "prefill_only",
)  # fmt: skip


def input_lengths(shapes: SpecializationSpec, task: str) -> tuple[int, ...]:
    """The lengths of input that an encoder is built for, ascending."""
    return tuple(sorted(shapes.seq_len)) or (SAMPLES if task == "ctc" else shapes.ctx_len,)


def check_task(spec: BuildSpec, task: str) -> None:
    """Raise on the first key that goes with another task than this one."""
    for combination in matrix.of_spec(spec, task):
        verdict = matrix.verdict(combination)
        if verdict is not None and verdict.gives is None:
            key = verdict.change.partition("=")[0]
            raise SpecError("spec.conflict", f"{key}: {verdict.refused}", hint=verdict.change)
    for passing in matrix.passes_of(spec, task):
        if (refusal := matrix.refusal(passing)) is not None:
            raise SpecError(
                "spec.conflict", f"{refusal.change.partition('=')[0]}: {refusal.refused}", hint=refusal.change
            )
    for fault in _strangers(spec, task):
        raise fault


def _strangers(spec: BuildSpec, task: str) -> Iterator[QeffBuildError]:
    shapes, model = spec.specialization, spec.model
    if task != "causal-lm" and task != "image-text":
        for name in _OF_A_DECODER:
            if getattr(shapes, name) not in (None, ()):
                yield _fault(f"specialization.{name}", f"it is for causal-lm, and this model's task is {task}")
    if shapes.seq_len and task not in _WITH_SEQ_LEN:
        yield _fault("specialization.seq_len", f"it is for encoders, and this model's task is {task}")
    if shapes.encoder_ctx_len is not None and task != "speech-seq2seq":
        yield _fault("specialization.encoder_ctx_len", f"it is for speech-seq2seq, and this model's task is {task}")
    if task != "image-text":
        if shapes.img_size or shapes.max_num_images != 1:
            key = "img_size" if shapes.img_size else "max_num_images"
            yield _fault(f"specialization.{key}", f"it is for image-text, and this model's task is {task}")
        if not model.kv_offload:
            yield _fault("model.kv_offload", f"it is for image-text, and this model's task is {task}")
        if spec.images:
            yield RunError("run.image", f"images: a model of task {task} does not see", hint="leave them out")
    elif not model.kv_offload and max(shapes.batch_size, shapes.full_batch_size or 1) > 1:
        yield _fault("specialization.batch_size", "one graph for vision and language sees for one row only")
    yield from _quantization(spec, task)
    if task != "embedding" and (model.pooling != "auto" or model.normalize is not None):
        key = "pooling" if model.pooling != "auto" else "normalize"
        yield _fault(f"model.{key}", f"it is for embedding, and this model's task is {task}")


def _quantization(spec: BuildSpec, task: str) -> Iterator[QeffBuildError]:
    asked = spec.quantization
    rounds = {"mxint8_kv_cache": asked.mxint8_kv_cache, "kv_cache": asked.kv_cache != "float"}
    measures = {"kv_cache": asked.kv_cache == "int8", "budget": asked.budget is not None}
    for name in (name for name, is_asked in rounds.items() if is_asked and task in _WITHOUT_CACHE):
        yield _fault(f"quantization.{name}", f"a model of task {task} has no cache")
    for name in (name for name, is_asked in measures.items() if is_asked and task != "causal-lm"):
        what = f"it is measured on text that a model goes on with, and this model's task is {task}"
        yield _fault(f"quantization.{name}", what)


def _fault(key: str, what: str) -> SpecError:
    return SpecError("spec.conflict", f"{key}: {what}", hint="leave it out")
