"""What a Hexagon binary cannot be, refused at the door."""

from __future__ import annotations

from collections.abc import Iterator

from qeffbuild.backends.qnn.htp.chips import chip_faults
from qeffbuild.errors import QeffBuildError, SpecError
from qeffbuild.spec.types import BuildSpec


def check_htp(spec: BuildSpec) -> None:
    options = spec.backend.options
    for fault in (*chip_faults(options.soc_model, options.htp_arch), *_weights(spec), *_shapes(spec)):
        raise fault


def rows_of(spec: BuildSpec) -> int:
    """Rows of every run: under continuous batching all slots run together, and those without a request idle."""
    shapes = spec.specialization
    continuous = (
        shapes.full_batch_size is not None if shapes.continuous_batching is None else shapes.continuous_batching
    )
    return shapes.full_batch_size if continuous and shapes.full_batch_size else shapes.batch_size


def _conflict(key: str, why: str, hint: str = "leave it out") -> SpecError:
    return SpecError("spec.conflict", f"{key}: {why}", hint=hint)


def _weights(spec: BuildSpec) -> Iterator[QeffBuildError]:
    asked, options = spec.quantization, spec.backend.options
    if asked.mxfp6_matmul:
        yield _conflict("quantization.mxfp6_matmul", "qnn: htp has no MXFP6", "use quantization=int4")
    if asked.mxint8_kv_cache:
        yield _conflict("quantization.mxint8_kv_cache", "qnn: htp has no MXINT8 cache")
    if asked.method not in ("none", "int4"):
        yield _conflict("quantization.method", f"qnn: htp takes no {asked.method}", "backend.precision=a16w8")
    if asked.budget is not None or asked.bits == 8:
        yield _conflict("quantization.budget", "qnn: htp takes blocks of 4 bits only, and some would get 8")
    if asked.kv_cache != "float":
        yield _conflict("quantization.kv_cache", f"qnn: htp has no {asked.kv_cache} cache")
    if asked.method == "int4" and asked.block_size not in (None, 32):
        yield _conflict("quantization.block_size", "qnn: htp takes blocks of 32", "quantization.block_size=32")
    if options.precision == "a16w8" and asked.method != "none":
        yield _conflict("backend.precision", f"a16w8 quantizes, and so does {asked.method}", "choose one of them")
    if options.precision == "a16w8" and options.calibration_file is None and spec.model.eval_file is None:
        yield SpecError(
            "spec.missing",
            "backend.calibration_file: a16w8 needs a text to measure activations on",
            hint="backend.calibration_file=FILE, some pages of plain text",
        )
    if options.dlc and asked.method != "none":
        yield _conflict("backend.dlc", f"a DLC of {asked.method} weights is not written", "leave one of them out")
    if options.precision != "a16w8" and options.calibration_file is not None:
        yield _conflict("backend.calibration_file", "nothing is measured without backend.precision=a16w8")
    if spec.model.dtype != "float32":
        yield _conflict("model.dtype", f"{spec.model.dtype}, but graphs are float32; the compiler makes them float16")


def _shapes(spec: BuildSpec) -> Iterator[QeffBuildError]:
    shapes, group = spec.specialization, spec.device_group
    if group.size > 1 or group.mdp_num_partitions > 1:
        yield _conflict("device_group", "qnn: htp is one device", "device_group.devices=[0]")
    for phase, lengths in (("prefill", shapes.comp_ctx_lengths_prefill), ("decode", shapes.comp_ctx_lengths_decode)):
        if lengths:
            yield _conflict(f"specialization.comp_ctx_lengths_{phase}", "qnn: htp compiles the whole context")
    if shapes.num_speculative_tokens:
        yield _conflict("specialization.num_speculative_tokens", "qnn: htp does not speculate yet")
    if shapes.prefill_only is not None:
        yield _conflict("specialization.prefill_only", "qnn: htp compiles prefill and decode together")
    rows = rows_of(spec)
    if shapes.kv_cache_batch_size not in (None, rows):
        yield _conflict(
            "specialization.kv_cache_batch_size",
            f"{shapes.kv_cache_batch_size} cache slots, but qnn: htp has one for each of its {rows} rows",
        )
    if shapes.prefill_seq_len > shapes.ctx_len:
        yield _conflict("specialization.prefill_seq_len", f"{shapes.prefill_seq_len} tokens in {shapes.ctx_len} slots")
