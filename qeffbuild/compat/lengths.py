"""Compute context lengths as QEfficient works them out: raised, completed and moved apart without a word there."""

from __future__ import annotations

from collections.abc import Sequence

SHORTEST = 1024
STEP = 32  # a length that decode has already moves down to the next multiple of this
_MOST, _MOST_OF_ONE_GRAPH = 5, 10

Lengths = list[int]


def settled(
    prefill: Sequence[int], decode: Sequence[int], ctx_len: int, prefill_seq_len: int
) -> tuple[Lengths, Lengths]:
    """What becomes of lengths that were given."""
    first, second = _completed(prefill, ctx_len), _completed(decode, ctx_len)
    if prefill_seq_len == 1:
        both = sorted({*first, *second})
        return both, both
    taken = set(second)
    free: Lengths = []
    for length in first:
        while length in taken:
            length = (length - 1) // STEP * STEP
        taken.add(length)
        free.append(length)
    return sorted(free), second


def automatic(ctx_len: int, prefill_seq_len: int) -> tuple[Lengths, Lengths]:
    """What is chosen where none were given: doubling from a start that grows with the context."""
    whole = -(-ctx_len // SHORTEST) * SHORTEST
    if whole <= 4096:
        return settled([whole], [whole], whole, prefill_seq_len)
    start = 4096 if whole <= 32768 else 8192 if whole <= 65536 else 16384
    most = _MOST_OF_ONE_GRAPH if prefill_seq_len == 1 else _MOST
    decode = _doubling(start, whole, most)
    if prefill_seq_len == 1:
        return decode, decode
    prefill = [length // 1024 * 1000 for length in decode[:-1]]
    return settled([*prefill, whole], decode, whole, prefill_seq_len)


def _doubling(start: int, whole: int, most: int) -> Lengths:
    lengths: Lengths = []
    while start < whole and len(lengths) < most - 1:
        lengths.append(start)
        start *= 2
    return [*lengths, whole]


def _completed(lengths: Sequence[int], ctx_len: int) -> Lengths:
    """At least 1024, once each, rising, and the whole context at the end."""
    raised = sorted({max(length, SHORTEST) for length in lengths})
    return raised if raised and raised[-1] >= ctx_len else [*raised, ctx_len]
