"""Why a step has to run, and how two builds differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeffbuild.api.planning import plan
from qeffbuild.api.specs import admit, open_store, steps_of
from qeffbuild.errors import SpecError
from qeffbuild.plan import Goal
from qeffbuild.plan.keys import deep_keys
from qeffbuild.spec.types import BuildSpec
from qeffbuild.world import LocalWorld

if TYPE_CHECKING:
    from qeffbuild.report.differences import Side


def why(spec: BuildSpec, step: str | None = None, goal: Goal = "package", *, frozen: bool = False) -> dict[str, Any]:
    """What `plan` says of one step or of all, with the pre-images of their keys."""
    planned = plan(spec, goal, frozen=frozen)
    names = [found.step.name for found in planned.steps]
    if step is not None and step not in names:
        raise SpecError("step.unknown", f"{step}: no such step in this plan", hint=f"steps: {', '.join(names)}")
    chosen = [found for found in planned.steps if step in (None, found.step.name)]
    return {"schema": 1, "steps": [{**found.as_json(), "preimage": found.key.preimage} for found in chosen]}


def diff(one: BuildSpec | Path, other: BuildSpec | Path) -> dict[str, Any]:
    """How two builds differ; each is a spec or the folder of a package."""
    from qeffbuild.package import Package
    from qeffbuild.report.differences import differences, package_differences

    mine, theirs = _side(one), _side(other)
    if mine and theirs:
        steps = differences(mine, theirs)
    else:
        steps = package_differences(*(Package.open(_package_of(side)) for side in (one, other)))
    return {"schema": 1, "same": all(step["same"] for step in steps), "steps": steps}


def _side(build: BuildSpec | Path) -> Side | None:
    from qeffbuild.report.differences import Side, side_of_package

    if isinstance(build, Path):
        return side_of_package(build)
    spec = admit(build)
    steps = steps_of(spec, "package")
    keys = deep_keys(steps, LocalWorld(open_store(spec), [spec.model]))
    return Side({name: key.preimage for name, key in keys.items()}, {step.name: step for step in steps})


def _package_of(build: BuildSpec | Path) -> Path:
    """The package that a copied one is compared with: found, never built."""
    if isinstance(build, Path):
        return build
    spec = admit(build)
    store = open_store(spec)
    steps = steps_of(spec, "package")
    entry = store.find(deep_keys(steps, LocalWorld(store, [spec.model]))[steps.goals[0]].digest)
    if entry is None:
        raise SpecError(
            "diff.absent", "the build to compare the package with is not in the cache", hint="build it first"
        )
    return entry.out
