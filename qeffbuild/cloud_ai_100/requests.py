"""What of a request is refused whichever compiler for Cloud AI 100 is meant."""

from __future__ import annotations

from collections.abc import Iterator

from qeffbuild.cloud_ai_100.context_lengths import check_context_lengths
from qeffbuild.errors import QeffBuildError, SpecError
from qeffbuild.spec.types import BuildSpec


def check_request(spec: BuildSpec) -> None:
    """Refuses what no graph of this form does, or what would have to be changed quietly."""
    for fault in (*_weights(spec), *_batching(spec), *_speculation(spec)):
        raise fault
    check_context_lengths(spec.specialization)


def is_continuous(spec: BuildSpec) -> bool:
    """Rows join and leave while others decode: said so, or meant by full_batch_size."""
    shapes = spec.specialization
    if shapes.continuous_batching is None:
        return shapes.full_batch_size is not None
    return shapes.continuous_batching


def conflict(what: str, hint: str) -> SpecError:
    return SpecError("spec.conflict", what, hint=hint)


def _weights(spec: BuildSpec) -> Iterator[QeffBuildError]:
    quantization = spec.quantization
    if quantization.method != "none":
        yield conflict(
            f"quantization.method: {quantization.method} is not a method of this backend",
            "use quantization=none with quantization.mxfp6_matmul=true",
        )
    if spec.adapters and spec.transforms.lora == "inputs" and is_continuous(spec):
        yield conflict(
            "transforms.lora: inputs hold one adapter for all rows, but continuous batching mixes requests",
            "transforms.lora=stacked",
        )


def _batching(spec: BuildSpec) -> Iterator[QeffBuildError]:
    shapes = spec.specialization
    key = "specialization.kv_cache_batch_size"
    if not is_continuous(spec):
        if shapes.kv_cache_batch_size is not None:
            yield conflict(f"{key}: only continuous batching has cache slots of its own", "leave it out")
        return
    slots, rows = shapes.kv_cache_batch_size, shapes.full_batch_size
    if rows is None and (slots is None or shapes.prefill_only is not True):
        yield SpecError(
            "spec.missing",
            "specialization.full_batch_size: continuous batching decodes so many rows at once, but none is given",
            hint="specialization.full_batch_size=4",
        )
    if slots is not None and rows is not None and slots < rows:
        yield conflict(f"{key}: {slots} slots for {rows} rows", f"{key}={rows}")
    if shapes.batch_size != 1:
        yield conflict(
            f"specialization.batch_size: {shapes.batch_size}, but continuous batching prefills one row at a time",
            "leave it out; specialization.full_batch_size is the number of rows that decode together",
        )


def _speculation(spec: BuildSpec) -> Iterator[QeffBuildError]:
    shapes = spec.specialization
    if not shapes.num_speculative_tokens:
        return
    key = "specialization.num_speculative_tokens"
    if shapes.prefill_only is True:
        yield conflict(f"{key}: tokens are verified while decoding, which prefill_only=true leaves out", "leave it out")
    if shapes.prefill_seq_len == 1:
        yield conflict(f"{key}: a target needs a prefill of its own", "specialization.prefill_seq_len=32")
    if shapes.comp_ctx_lengths_prefill or shapes.comp_ctx_lengths_decode:
        yield conflict(f"{key}: not together with comp_ctx_lengths", "leave one of them out")
    if max(shapes.num_speculative_tokens) >= shapes.ctx_len:
        found = f"{key}: {max(shapes.num_speculative_tokens)} tokens do not fit in a context of {shapes.ctx_len}"
        yield SpecError("spec.range", found, hint=f"at most {shapes.ctx_len - 1}")
