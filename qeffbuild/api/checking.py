"""What is there already, looked at once more: a step's files, a package's bytes, this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qeffbuild.api.building import build_together
from qeffbuild.api.specs import steps_of
from qeffbuild.errors import QeffBuildError, SpecError, VerificationError
from qeffbuild.executor.reporter import Reporter, Silent
from qeffbuild.plan import Goal, Plan
from qeffbuild.spec.types import BuildSpec
from qeffbuild.world import LOCATE, LocalWorld


def check(spec: BuildSpec, name: str, *, reporter: Reporter | None = None, frozen: bool = False) -> dict[str, Any]:
    """Run a step once more and compare its files with those that the store has."""
    from qeffbuild.executor.again import run_again
    from qeffbuild.executor.once import Room

    built = build_together([replace(spec, out=None)], reporter=reporter, frozen=frozen, plans=_up_to(name)).builds[0]
    once = built.goal
    room = Room(
        store=built.store,
        world=LocalWorld(built.store, [built.spec.model]),
        reporter=reporter or Silent(),
        timeout_s=spec.launch.timeout_s,
        memory_mb=spec.launch.memory_mb,
        locate=LOCATE,
        in_process=(),
    )
    entries = {outcome.step.name: outcome.entry for outcome in built.outcomes if outcome.entry}
    step = built.plan[name]
    different = run_again(step, {role: entries[source] for role, source in step.inputs.items()}, once, room)
    said = {"same": not different, "different": list(different), "files": len(once.record.files)}
    return {"schema": 1, "step": name, **said}


def _up_to(name: str) -> Callable[[BuildSpec, Goal], Plan]:
    """Plans that end at one step, with its inputs among their goals so that they are there to be read."""

    def plans(spec: BuildSpec, goal: Goal) -> Plan:
        whole = steps_of(spec, goal)
        names = [step.name for step in whole]
        if name not in names:
            raise SpecError("step.unknown", f"{name}: no such step in this plan", hint=f"steps: {', '.join(names)}")
        steps = whole.steps[: names.index(name) + 1]
        return Plan(steps, (name, *whole[name].inputs.values()))

    return plans


def not_reproducible(said: Mapping[str, Any]) -> QeffBuildError:
    files = ", ".join(said["different"][:3])
    hint = "the first result stays in the cache; what reads it is built from that one"
    return VerificationError(
        "verify.reproducible", f"{said['step']}: a second run wrote other bytes: {files}", hint=hint
    )


def verify(path: Path) -> dict[str, Any]:
    """Check every byte of a package against its manifest, and say what its gates found."""
    from qeffbuild.package import Package

    package = Package.open(path, verify=True)
    files = package.manifest["files"]
    said = {"files": len(files), "bytes": sum(file["size"] for file in files.values())}
    return {"schema": 1, "path": str(path), **said, "gate": package.manifest.get("gate", {})}


def doctor(root: Path) -> dict[str, Any]:
    """What a build needs of this machine, and whether it is there."""
    from qeffbuild.report.doctor import examine
    from qeffbuild.report.installed import distributions

    return {"schema": 1, "checks": [check.as_json() for check in examine(root, distributions())]}
