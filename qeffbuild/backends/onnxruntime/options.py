"""What a user may ask of ONNX Runtime, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from qeffbuild import quantizers
from qeffbuild.errors import SpecError
from qeffbuild.spec.types import BuildSpec, option

Attention = Literal["auto", "portable"]
Recurrence = Literal["chunked", "token_by_token"]
Profile = Literal["fast", "accurate", "small"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How graphs are written for ONNX Runtime, and run by it."""

    attention: Attention = option("auto", "auto: GroupQueryAttention where it fits; portable: standard operators")
    recurrence: Recurrence = option(
        "chunked",
        "of states that pass from token to token. chunked: prompts by products of matrices, a chunk of tokens at once, "
        "where the layer's algebra is known; token_by_token: in a loop",
    )
    profile: Profile = option(
        "accurate",
        "of quantized packages. fast: prompts by 8-bit integers with a scale per token, one more byte per weight; "
        "accurate: prompts and decoding by the same weights; small: that, in larger blocks",
    )
    embedding_bits: int | None = option(
        None,
        "bits of tables that tokens are looked up in, 4 or 8; null: as they are, or 8 in quantized packages where "
        "profile is small",
        low=4,
        high=8,
    )
    prepacked: bool = option(
        False, "weights that decode a second time in the package, as this processor reads them: loads in half the time"
    )
    threads: int | None = option(
        None, "threads of one operator; null: one per core; rebuilds nothing", low=1, high=1024
    )


def check(spec: BuildSpec) -> None:
    """Refuses what this backend cannot do, rather than leave it out quietly."""
    for refused, key, why, hint in _conflicts(spec):
        if refused:
            raise SpecError("spec.conflict", f"{key}: {why}", hint=hint)
    quantizers.check(spec.quantization)


def _conflicts(spec: BuildSpec) -> Iterator[tuple[bool, str, str, str]]:
    quantization, shapes, group = spec.quantization, spec.specialization, spec.device_group
    compiler_only = "only a compiler does this; choose another backend or leave it out"
    yield (
        group.size > 1 or group.mdp_num_partitions > 1,
        "device_group",
        f"{group.size} devices in {group.mdp_num_partitions} partitions, but onnxruntime runs on one device",
        "use device_group.devices=[0]",
    )
    yield (
        quantization.mxfp6_matmul,
        "quantization.mxfp6_matmul",
        "onnxruntime has no MXFP6",
        "use quantization=int8 or quantization=int4",
    )
    yield (
        quantization.mxint8_kv_cache,
        "quantization.mxint8_kv_cache",
        "onnxruntime has no MXINT8 cache",
        compiler_only,
    )
    bits = spec.backend.options.embedding_bits
    yield (
        bits not in (None, 4, 8),
        "backend.embedding_bits",
        f"{bits} is not one of 4, 8",
        "backend.embedding_bits=8",
    )
    for phase, lengths in (
        ("prefill", shapes.comp_ctx_lengths_prefill),
        ("decode", shapes.comp_ctx_lengths_decode),
    ):
        yield (
            bool(lengths),
            f"specialization.comp_ctx_lengths_{phase}",
            "onnxruntime compiles no context lengths: every length runs in one graph",
            "leave it out",
        )
    yield (
        shapes.prefill_only is not None,
        "specialization.prefill_only",
        "onnxruntime has one graph for prefill and decode",
        "leave it out",
    )
    yield (
        shapes.kv_cache_batch_size not in (None, shapes.full_batch_size or shapes.batch_size),
        "specialization.kv_cache_batch_size",
        f"{shapes.kv_cache_batch_size} cache slots, but onnxruntime has one for each of its rows",
        f"leave it out, or say {shapes.full_batch_size or shapes.batch_size}",
    )
