"""Node names in order, the layer of each, and a number of stages -> the stages of a pipeline and their nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qeffbuild.errors import BackendError


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One partition: its devices run its nodes."""

    name: str
    devices: tuple[int, ...]
    nodes: tuple[str, ...]


def layers_per_stage(layers: int, stages: int) -> list[int]:
    """An even share each; what is left goes to the middle stages, the centre first, then to the first stage.

    The last stage gets none of it: it has the head to compute already. Of two middle stages that are equally far from
    the centre the earlier comes first (a choice of ours).
    """
    share, left = divmod(layers, stages)
    sizes = [share] * stages
    centre = (stages - 1) / 2
    middle = sorted(range(1, stages - 1), key=lambda stage: (abs(stage - centre), stage))
    for stage in [*middle, 0][:left]:
        sizes[stage] += 1
    return sizes


def split_into_stages(nodes: Iterable[tuple[str, int | None]], stages: int, devices: int) -> tuple[Stage, ...]:
    """`nodes` are (name, layer) in topological order. A node without a layer goes with the one before it."""
    placed = list(nodes)
    layers = sorted({layer for _, layer in placed if layer is not None})
    stage_of = _stage_of_layer(layers, stages)
    members: list[list[str]] = [[] for _ in range(stages)]
    current = 0
    for name, layer in placed:
        current = current if layer is None else stage_of[layer]
        members[current].append(name)
    each = devices // stages
    return tuple(
        Stage(name=f"Partition{i}", devices=tuple(range(i * each, (i + 1) * each)), nodes=tuple(names))
        for i, names in enumerate(members)
    )


def intersect(stages: Iterable[Stage], dumped: Iterable[str]) -> tuple[Stage, ...]:
    """Each stage with those of its nodes that the compiler's dump has: others were folded away, or have new names."""
    known = frozenset(dumped)
    kept = tuple(replace(stage, nodes=tuple(node for node in stage.nodes if node in known)) for stage in stages)
    if empty := next((stage for stage in kept if not stage.nodes), None):
        raise BackendError(
            "backend.file",
            f"backend.mdp_compiler_dump_path: it has no node of {empty.name}",
            hint="dump this graph: the same build with backend.mdp_dump_partition_config=FILE and no stages",
        )
    return kept


def _stage_of_layer(layers: Sequence[int], stages: int) -> dict[int, int]:
    sizes = layers_per_stage(len(layers), stages)
    owners = [stage for stage, size in enumerate(sizes) for _ in range(size)]
    return dict(zip(layers, owners, strict=True))
