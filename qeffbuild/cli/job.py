"""One composed configuration: its spec, kept from an earlier call or composed anew, and the builds of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qeffbuild import api, paths
from qeffbuild.cli.composed import Kept
from qeffbuild.cli.places import cache_root
from qeffbuild.cli.words import Command
from qeffbuild.plan.types import Goal
from qeffbuild.report.progress import reporting
from qeffbuild.spec.load import from_config
from qeffbuild.spec.types import BuildSpec

Document = dict[str, Any]


@dataclass(slots=True)
class Job:
    """One composed configuration and how its results are wanted."""

    command: Command
    up_to_date: api.UpToDate | None = None  # what was looked at, where there was nothing to do
    variables: tuple[str, ...] = ()  # of the environment, that composition has read
    _spec: BuildSpec | None = None

    @property
    def spec(self) -> BuildSpec:
        if self._spec is None:
            source, overrides = self.command.value("--from"), self.command.overrides
            said, self._spec = composed(api.words_of(Path(source), overrides) if source else overrides)
            self.variables = tuple(said["environment"])
        return self._spec

    @property
    def as_json(self) -> bool:
        return self.command.has("--json")

    @property
    def goal(self) -> Goal:
        return self.command.goal

    @property
    def flags(self) -> Mapping[str, bool]:
        return {"frozen": self.command.has("--frozen")}

    @property
    def lock(self) -> api.Lock | None:
        if package := self.command.value("--from"):
            return api.held_to(Path(package), self.command.overrides) if self.goal == "package" else None
        return api.read_lock(Path.cwd(), self.command.overrides) if self.command.has("--locked") else None

    def build(self, goal: Goal) -> api.Built:
        with reporting() as reporter:
            outside = self.command.has("--allow-outside")
            together = api.build_together(
                [self.spec],
                goal,
                reporter=reporter,
                allow_outside=outside,
                frozen=self.command.has("--frozen"),
                lock=self.lock,
            )
        # Neither a lock file nor a package is among what a kept answer is compared with.
        is_held = self.command.has("--locked") or self.command.has("--from")
        self.up_to_date = None if is_held else together.up_to_date
        return together.builds[0]

    def built(self) -> api.Built:
        """The package, or the error that it could not be built."""
        built = self.build("package")
        if built.error is not None:
            raise built.error
        return built


def composed(overrides: tuple[str, ...]) -> tuple[Document, BuildSpec]:
    """The composition that was kept for these words, else a new one by Hydra, and the spec that it gives."""
    kept = Kept(cache_root(overrides))
    said = kept.load("job", overrides)
    is_new = said is None
    if said is None:
        from qeffbuild.spec.compose import compose

        said = as_kept(compose(overrides, conf_dirs=paths.user_conf_dirs(Path.cwd())))
    for mine, theirs in said["shadowed"]:
        print(f"note: {mine} comes before {theirs}", file=sys.stderr)
    spec = from_config(said["values"], origins=said["origins"])
    if is_new:  # and admitted: what is refused may hold a password, and is not kept
        kept.keep("job", overrides, said)
    return said, spec


def spec_of(overrides: tuple[str, ...]) -> BuildSpec:
    return composed(overrides)[1]


def as_kept(composed: Any) -> Document:
    return {
        "values": composed.values,
        "origins": dict(composed.origins),
        "environment": dict(composed.environment),
        "shadowed": [[str(mine), str(theirs)] for mine, theirs in composed.shadowed],
    }
