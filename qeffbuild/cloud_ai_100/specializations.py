"""SpecializationSpec -> the named sets of static shapes that the compiler specialises for, in its order and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from qeffbuild.cloud_ai_100.context_lengths import is_one_graph
from qeffbuild.errors import ModelError
from qeffbuild.signature import IoSignature
from qeffbuild.spec.types import SpecializationSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Specialization:
    """One set: each symbol of the graph's axes and its size."""

    name: str
    symbols: Mapping[str, int]


def specializations(shapes: SpecializationSpec, *, continuous: bool) -> tuple[Specialization, ...]:
    """Prefill first, then decode; of several with one name, each gets its number."""
    entries: list[Specialization] = []
    if shapes.prefill_only is not False:
        entries += _prefill(shapes, continuous)
    if shapes.prefill_only is not True and not is_one_graph(shapes):
        entries += _decode(shapes, continuous)
    return numbered(entries)


def with_windows(entries: Iterable[Specialization], signature: IoSignature) -> tuple[Specialization, ...]:
    """Adds the size of `sliding_window` where the graph has states with that axis."""
    windows = {state.window for state in signature.states if "sliding_window" in state.axes}
    if not windows:
        return tuple(entries)
    if len(windows) > 1 or None in windows:
        found = ", ".join(sorted(map(str, windows)))
        raise ModelError(
            "onnx.unsupported", f"sliding_window: the layers' windows are {found}, but the symbol has one size"
        )
    (window,) = (size for size in windows if size is not None)
    return tuple(
        Specialization(name=entry.name, symbols={**entry.symbols, "sliding_window": window}) for entry in entries
    )


def _prefill(shapes: SpecializationSpec, continuous: bool) -> Iterator[Specialization]:
    rows = shapes.batch_size
    if continuous:
        rows = shapes.full_batch_size or 1 if shapes.prefill_seq_len == 1 else 1
    symbols = {"batch_size": rows, "ctx_len": shapes.ctx_len, "seq_len": shapes.prefill_seq_len}
    if continuous:
        symbols["full_batch_size"] = _cache_slots(shapes)
    if continuous and shapes.full_batch_size is not None:
        symbols["full_batch_exec_size"] = rows
    if shapes.keeps_several:
        symbols["num_logits_to_keep"] = shapes.kept(shapes.prefill_seq_len)
    for length in shapes.comp_ctx_lengths_prefill or (None,):
        yield Specialization(name="Prefill", symbols=symbols | _context(length))


def _decode(shapes: SpecializationSpec, continuous: bool) -> Iterator[Specialization]:
    rows = shapes.full_batch_size if continuous else shapes.batch_size
    assert rows is not None, "check refuses decode without full_batch_size"
    symbols = {"batch_size": rows, "ctx_len": shapes.ctx_len}
    if continuous:
        symbols["full_batch_size"] = _cache_slots(shapes)
    for drafted in sorted(set(shapes.num_speculative_tokens)) or (0,):
        tokens = drafted + 1
        kept = {"num_logits_to_keep": tokens} if shapes.keeps_several else {}
        for length in shapes.comp_ctx_lengths_decode or (None,):
            yield Specialization(name="Decode", symbols=symbols | {"seq_len": tokens} | kept | _context(length))


def _cache_slots(shapes: SpecializationSpec) -> int:
    slots = shapes.kv_cache_batch_size or shapes.full_batch_size
    assert slots is not None, "check refuses continuous batching without a number of slots"
    return slots


def _context(length: int | None) -> dict[str, int]:
    return {} if length is None else {"comp_ctx_lengths": length}


def numbered(entries: list[Specialization]) -> tuple[Specialization, ...]:
    """Entries that share a name get their numbers behind it."""
    several = {name for name, count in Counter(entry.name for entry in entries).items() if count > 1}
    seen: Counter[str] = Counter()
    named = []
    for entry in entries:
        number = f"_{seen[entry.name]}" if entry.name in several else ""
        seen[entry.name] += 1
        named.append(Specialization(name=f"{entry.name}{number}", symbols=entry.symbols))
    return tuple(named)
