"""Compute context lengths: which the hardware's rules accept, and an error that names them for a request they refuse.

The rules (docs/cloud_ai_100.md): at least 1024, rising, the last one the whole context, and no length for prefill and
decode both. A request that breaks them could be bent until it fits; then a build would not be what was asked for.
"""

from __future__ import annotations

from itertools import pairwise

from qeffbuild.errors import SpecError
from qeffbuild.spec.types import SpecializationSpec

SHORTEST = 1024
STEP = 32  # a length that decode has already moves down to the next multiple of this

Lengths = tuple[int, ...]


def check_context_lengths(shapes: SpecializationSpec) -> None:
    prefill, decode = shapes.comp_ctx_lengths_prefill, shapes.comp_ctx_lengths_decode
    if not prefill and not decode:
        return
    if shapes.ctx_len < SHORTEST:
        raise SpecError(
            "spec.conflict",
            f"specialization.ctx_len: {shapes.ctx_len} is shorter than the shortest compute context of {SHORTEST}",
            hint="leave comp_ctx_lengths out",
        )
    _check_both_given(shapes)
    fault = _fault(shapes)
    if fault is None:
        return
    fit_prefill, fit_decode = fitting_lengths(shapes)
    raise SpecError(
        "spec.conflict",
        f"specialization.comp_ctx_lengths_{fault}",
        hint=f"these fit: comp_ctx_lengths_prefill={list(fit_prefill)} comp_ctx_lengths_decode={list(fit_decode)}",
    )


def fitting_lengths(shapes: SpecializationSpec) -> tuple[Lengths, Lengths]:
    """The nearest request that the rules accept, for prefill and for decode."""
    prefill = _raised(shapes.comp_ctx_lengths_prefill, shapes.ctx_len)
    decode = _raised(shapes.comp_ctx_lengths_decode, shapes.ctx_len)
    if is_one_graph(shapes):
        both = tuple(sorted({*prefill, *decode}))
        return both, both
    return tuple(sorted({_free(length, decode) for length in prefill})), decode


def is_one_graph(shapes: SpecializationSpec) -> bool:
    """A prefill of one token is a decode step: one graph serves both."""
    return shapes.prefill_seq_len == 1 and shapes.prefill_only is None


def _check_both_given(shapes: SpecializationSpec) -> None:
    wanted = {"prefill": shapes.prefill_only is not False, "decode": shapes.prefill_only is not True}
    given = {"prefill": shapes.comp_ctx_lengths_prefill, "decode": shapes.comp_ctx_lengths_decode}
    for phase, is_wanted in wanted.items():
        key = f"specialization.comp_ctx_lengths_{phase}"
        if is_wanted and not given[phase]:
            raise SpecError(
                "spec.missing", f"{key}: none given, but the other phase has some", hint=f"{key}=[{shapes.ctx_len}]"
            )
        if given[phase] and not is_wanted:
            raise SpecError("spec.conflict", f"{key}: prefill_only leaves this phase out", hint="leave it out")


def _fault(shapes: SpecializationSpec) -> str | None:
    """The first broken rule, as "decode: why"."""
    prefill, decode, ctx_len = shapes.comp_ctx_lengths_prefill, shapes.comp_ctx_lengths_decode, shapes.ctx_len
    if is_one_graph(shapes):
        if prefill != decode:
            return f"prefill: {list(prefill)}, but prefill_seq_len=1 makes one graph for both phases, with one list"
        return _order_fault("decode", decode, SHORTEST, ctx_len)
    if decode and (fault := _order_fault("decode", decode, SHORTEST, ctx_len)):
        return fault
    if both := sorted(set(prefill) & set(decode)):
        return f"prefill: {both[0]} is there for decode as well"
    return _order_fault("prefill", prefill, *_ends_of_prefill(decode, ctx_len)) if prefill else None


def _ends_of_prefill(decode: Lengths, ctx_len: int) -> tuple[int, int]:
    """The shortest and the longest length that prefill may have."""
    return _free(SHORTEST, decode), _free(ctx_len, decode)


def _free(length: int, decode: Lengths) -> int:
    """The length itself, or the next one below that decode has not taken."""
    while length in decode:
        length = (length - 1) // STEP * STEP
    return length


def _order_fault(phase: str, lengths: Lengths, shortest: int, longest: int) -> str | None:
    if any(length >= following for length, following in pairwise(lengths)):
        return f"{phase}: {list(lengths)} does not rise"
    if lengths[0] < shortest:
        return f"{phase}: {lengths[0]} is below {shortest}"
    if lengths[-1] != longest:
        return f"{phase}: the last is {lengths[-1]}, but the whole context here is {longest}"
    return None


def _raised(lengths: Lengths, ctx_len: int) -> Lengths:
    if not lengths:
        return ()
    within = {min(max(length, SHORTEST), ctx_len) for length in lengths}
    return tuple(sorted({*within, ctx_len}))
