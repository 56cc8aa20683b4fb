"""Several keyed plans -> one graph in which each step occurs once, and which remembers who wants it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qeffbuild.plan.keys import Key
from qeffbuild.plan.types import Plan, Step


class Node(NamedTuple):
    """A step of the merged graph; other nodes are named by their deep digests.

    `after` has one set of order-only steps for each way in which a variant wants this node: two variants may share an
    export and check different things before it, and one set that has succeeded is enough to go on.
    """

    step: Step
    key: Key
    inputs: Mapping[str, str]
    after: tuple[frozenset[str], ...]
    variants: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Merged:
    """`nodes` by deep digest, each after those it reads; `variants`: for each plan, the digest of each step by name."""

    nodes: Mapping[str, Node]
    variants: tuple[Mapping[str, str], ...]
    goals: tuple[tuple[str, ...], ...]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def roots(self) -> tuple[str, ...]:
        """What must be looked at: the goals, and every order-only step below them.

        A goal that is up to date vouches for all that it read, but not for a check that its key knows nothing of.
        """
        found: dict[str, None] = dict.fromkeys(goal for goals in self.goals for goal in goals)
        stack, seen = list(found), set[str]()
        while stack:
            digest = stack.pop()
            if digest in seen:
                continue
            seen.add(digest)
            ordered = [name for alternative in self.nodes[digest].after for name in sorted(alternative)]
            found.update(dict.fromkeys(ordered))
            stack += (*self.nodes[digest].inputs.values(), *ordered)
        return tuple(found)

    @property
    def keys(self) -> dict[str, Key]:
        return {digest: node.key for digest, node in self.nodes.items()}


def merge(plans: Sequence[tuple[Plan, Mapping[str, Key]]]) -> Merged:
    """Unite plans by deep key. The order is that of the plans, the first one's steps first."""
    first: dict[str, tuple[Step, Key, dict[str, str]]] = {}
    after: dict[str, dict[frozenset[str], None]] = {}
    wanted: dict[str, dict[int, None]] = {}
    names: list[dict[str, str]] = []
    for variant, (plan, keys) in enumerate(plans):
        digests = {step.name: keys[step.name].digest for step in plan.steps}
        names.append(digests)
        for step in plan.steps:
            digest = digests[step.name]
            if digest not in first:
                first[digest] = (step, keys[step.name], {role: digests[name] for role, name in step.inputs.items()})
            after.setdefault(digest, {})[frozenset(digests[name] for name in step.after)] = None
            wanted.setdefault(digest, {})[variant] = None
    nodes = {
        digest: Node(step=step, key=key, inputs=inputs, after=tuple(after[digest]), variants=tuple(wanted[digest]))
        for digest, (step, key, inputs) in first.items()
    }
    goals = tuple(tuple(names[at][goal] for goal in plan.goals) for at, (plan, _) in enumerate(plans))
    return Merged(nodes, tuple(names), goals)
