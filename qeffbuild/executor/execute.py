"""Keyed plans + store -> what became of each step. Goals first: below what is found, nothing is looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from qeffbuild.executor.look import found, look_up
from qeffbuild.executor.outcome import Outcome
from qeffbuild.executor.reporter import InTurn, Reporter, Silent
from qeffbuild.plan.keys import Key, World
from qeffbuild.plan.merge import Merged, merge
from qeffbuild.plan.types import Plan
from qeffbuild.store import Store

DAY_S = 86400.0


def execute(
    plan: Plan | Merged,
    keys: Mapping[str, Key],
    store: Store,
    *,
    world: World,
    jobs: int = 1,
    timeout_s: float = DAY_S,
    memory_mb: int | None = None,
    keep_going: bool = False,
    reporter: Reporter | None = None,
    locate: str | None = None,
    in_process: Collection[str] = (),
) -> list[Outcome]:
    """Bring every goal into the store; one outcome for each step, in the order of the plan.

    A failed step is an outcome with its error, and what needs it is skipped. Raises Interrupted on Ctrl-C and SIGTERM,
    and a StoreError when the store cannot be used at all. `locate` names the function that finds a leaf's folder,
    "module:function"; `in_process` names the actions that are light enough to run without a worker.
    """
    graph = plan if isinstance(plan, Merged) else merge([(plan, keys)])
    reporter = reporter or Silent()
    look = look_up(graph, store)
    done = {digest: found(graph.nodes[digest], entry, "hit") for digest, entry in look.entries.items()}
    for outcome in done.values():
        reporter.finished(outcome)
    if not look.wanted:
        return _in_order(graph, done)
    # Threads, pipes and processes are imported only when there is something to do.
    from qeffbuild.executor.once import Room
    from qeffbuild.executor.schedule import run_wanted

    room = Room(
        store=store,
        world=world,
        reporter=InTurn(reporter),
        timeout_s=timeout_s,
        memory_mb=memory_mb,
        locate=locate,
        in_process=frozenset(in_process),
    )
    done |= run_wanted(graph, look, room, jobs=jobs, keep_going=keep_going or len(graph.variants) > 1)
    return _in_order(graph, done)


def _in_order(graph: Merged, done: Mapping[str, Outcome]) -> list[Outcome]:
    """What was not looked at lies below something that is up to date."""
    below = ("not looked at: what reads it is up to date",)
    return [
        done.get(node.key.digest)
        or Outcome(step=node.step, key=node.key, result="hit", because=below, variants=node.variants)
        for node in graph
    ]
