"""A keyed plan and a store -> what a build would do: which steps run, why, and what they are likely to cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from qeffbuild.plan.keys import Key, shallow_key
from qeffbuild.plan.merge import merge
from qeffbuild.plan.types import Plan, Step
from qeffbuild.store import Record, Store
from qeffbuild.store.record import Damaged, unseal
from qeffbuild.store.verify import check_files

# hit: the result is there; build: the step will run; unknown: it depends on what its inputs turn out to be
Status = Literal["hit", "build", "unknown"]
NOT_NEEDED = "not in the cache, but nothing needs it"
SAME_BYTES = "but to the same bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the most similar earlier run of a step of this name took."""

    seconds: float
    rss_mb: int
    disk_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """One step of a plan and what would become of it; `record` is that of a hit."""

    step: Step
    key: Key
    status: Status
    because: tuple[str, ...]
    estimate: Estimate | None
    record: Record | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.step.name,
            "action": self.step.action,
            "deep": self.key.digest,
            "status": self.status,
            "because": list(self.because),
            "inputs": list(self.step.inputs.values()),
            "estimate": asdict(self.estimate) if self.estimate else None,
        }


def forecast(plan: Plan, keys: Mapping[str, Key], store: Store) -> tuple[Forecast, ...]:
    """One forecast for each step, in the order of the plan. Nothing is written."""
    found, missing = _look(plan, keys, store)
    said: dict[str, Forecast] = {}
    for step in plan:
        key, record = keys[step.name], found.get(step.name)
        status: Status = "hit"
        because: tuple[str, ...] = ()
        if step.name in missing:
            because = store.why(step, key)
            status, record = _status(step, key, because, store, said, found)
            because = (*because, SAME_BYTES) if status == "hit" else because
        elif record is None:
            record = verified(store, key.digest)
            because = () if record else (NOT_NEEDED,)
        if status == "hit" and record is not None:
            found[step.name] = record
        cost = _estimate(record or store.nearest(step.name, key.preimage))
        said[step.name] = Forecast(step=step, key=key, status=status, because=because, estimate=cost, record=record)
    return tuple(said.values())


def _look(plan: Plan, keys: Mapping[str, Key], store: Store) -> tuple[dict[str, Record], set[str]]:
    """What a build would find, looking from the goals down to the first hits, and what it would miss."""
    graph = merge([(plan, keys)])
    names = {digest: name for name, digest in graph.variants[0].items()}
    found: dict[str, Record] = {}
    missing: set[str] = set()
    stack = list(graph.roots())
    while stack:
        digest = stack.pop()
        name = names[digest]
        if name in found or name in missing:
            continue
        if record := verified(store, digest):
            found[name] = record
            continue
        missing.add(name)
        stack += graph.nodes[digest].inputs.values()
    return found, missing


def verified(store: Store, digest: str) -> Record | None:
    """The record of a whole entry, by its key or an alias; unlike `Store.find`, it leaves a damaged one where it is."""
    record = store.peek(digest) or store.peek(_alias(store, digest))
    if record is None:
        return None
    try:
        check_files(store.entry_path(record.key) / "out", record, store.index, always=False)
    except (Damaged, OSError):
        return None
    return record


def _alias(store: Store, digest: str) -> str:
    try:
        said = unseal(store.alias_path(digest).read_bytes())
    except (OSError, Damaged):
        return digest
    return said["target"] if said.get("key") == digest else digest


def _status(
    step: Step,
    key: Key,
    because: tuple[str, ...],
    store: Store,
    said: Mapping[str, Forecast],
    found: Mapping[str, Record],
) -> tuple[Status, Record | None]:
    """A step whose own words are unchanged may find that its inputs were built to the bytes that it knows."""
    if any(said[name].status != "hit" for name in step.inputs.values()):
        is_own_change = any(not line.startswith("inputs.") for line in because)
        return ("build" if is_own_change else "unknown"), None
    contents = {role: found[name].content(step.narrow.get(role)) for role, name in step.inputs.items() if name in found}
    if len(contents) < len(step.inputs):
        return "build", None
    record = verified(store, shallow_key(key, contents).digest)
    return ("hit" if record else "build"), record


def _estimate(earlier: Record | None) -> Estimate | None:
    if earlier is None:
        return None
    return Estimate(seconds=round(earlier.seconds, 3), rss_mb=earlier.peak_rss_mb, disk_mb=round(earlier.size / 1e6, 3))
