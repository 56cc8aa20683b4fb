"""The public functions: the only place that joins the rooms.

spec = compose(["model=gpt2", "quantization=int8"])
print(plan(spec).as_json())
package = build(spec).package
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeffbuild import backends, paths
from qeffbuild.errors import ModelError, PathError, QeffBuildError, RunError, VerificationError
from qeffbuild.executor.execute import execute
from qeffbuild.executor.outcome import Outcome
from qeffbuild.executor.reporter import Reporter
from qeffbuild.package import Package
from qeffbuild.plan import Goal, Plan, resolve
from qeffbuild.plan.keys import deep_keys
from qeffbuild.plan.merge import merge
from qeffbuild.report.forecast import Forecast, forecast
from qeffbuild.spec.load import from_config
from qeffbuild.spec.types import BuildSpec, ModelSpec
from qeffbuild.store import Entry, Store
from qeffbuild.world import LOCATE, LocalWorld, Snapshot, locate

if TYPE_CHECKING:
    from qeffbuild.runtime.engine import Engine, Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a build would do."""

    goal: Goal
    plan: Plan
    steps: tuple[Forecast, ...]

    def as_json(self) -> dict[str, Any]:
        return {"schema": 1, "goal": self.goal, "steps": [step.as_json() for step in self.steps]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build did. `path` is the folder of its goal, copied to spec.out if that was asked for."""

    spec: BuildSpec
    plan: Plan
    outcomes: tuple[Outcome, ...]
    path: Path | None
    error: QeffBuildError | None = None

    @property
    def package(self) -> Path:
        """The folder of the goal; raises what kept it from being built."""
        if self.error is not None:
            raise self.error
        assert self.path is not None, "a build without an error has its goal"
        return self.path

    def as_json(self) -> dict[str, Any]:
        path = str(self.path) if self.path else None
        return {"schema": 1, "package": path, "steps": [outcome.as_json() for outcome in self.outcomes]}

    def folder_of(self, step: str) -> Path:
        """The finished folder of a step that this build looked at."""
        found = next(outcome for outcome in self.outcomes if outcome.step.name == step)
        if found.out is not None:
            return found.out
        entry = open_store(self.spec).find(found.key.digest)
        if entry is None:
            raise ModelError("cache.absent", f"{step}: its result is no longer in the cache", hint="build again")
        return entry.out


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What became of several specs that were built as one: `outcomes` has each unique step once."""

    builds: tuple[Built, ...]
    outcomes: tuple[Outcome, ...]


# -- what to build ----------------------------------------------------------------------------------------------------


def compose(overrides: Sequence[str] = (), *, conf_dirs: Sequence[Path] | None = None) -> BuildSpec:
    """The spec that a command line with these overrides means; `conf_dirs` None: the user's own."""
    from qeffbuild.spec.compose import compose as read_choices

    composed = read_choices(overrides, conf_dirs=paths.user_conf_dirs(Path.cwd()) if conf_dirs is None else conf_dirs)
    return from_config(composed.values, origins=composed.origins)


def open_store(spec: BuildSpec, say: Callable[[str], None] | None = None) -> Store:
    root = Path(spec.cache.root) if spec.cache.root else paths.cache_root()
    return Store(root, verify=spec.cache.verify, **({"say": say} if say else {}))


def steps_of(spec: BuildSpec, goal: Goal) -> Plan:
    return resolve(spec, goal, backends.room(spec.backend.name, "plan").steps)


def admit(spec: BuildSpec, *, frozen: bool = False) -> BuildSpec:
    """The spec with its model pinned, once the model is seen to fit: before anything heavy is imported."""
    model = spec.model
    if model.scale == "tiny":
        return spec
    if model.id is not None and frozen and not _is_commit(model.revision):
        raise ModelError(
            "model.revision",
            f"model.revision: {model.revision or 'main'} can move, and --frozen was asked for",
            hint="name a commit of 40 hex digits: model.revision=COMMIT",
        )
    if model.path is None:
        return replace(spec, model=_pinned(model))
    from qeffbuild.models.fit import fit

    fit(spec, _facts(model.path, model.allow_pickle, model.trust_remote_code))
    return spec


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and set(revision) <= set("0123456789abcdef")


def _pinned(model: ModelSpec) -> ModelSpec:
    if model.id is None:
        raise ModelError("model.absent", "no model is named", hint="model.path=DIR, or model.id=ORG/NAME")
    if _is_commit(model.revision):
        return model
    from qeffbuild.models.hub import pin

    return pin(model)


@lru_cache(maxsize=64)
def _facts(path: str, allow_pickle: bool, trust_remote_code: bool) -> Any:
    """Read once, however many variants of a sweep share the model."""
    from qeffbuild.models.facts import read_facts

    return read_facts(Path(path), allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)


# -- planning and building --------------------------------------------------------------------------------------------


def plan(spec: BuildSpec, goal: Goal = "package", *, frozen: bool = False) -> Planned:
    """What `build` would do, and why. Nothing runs and nothing is written."""
    spec = admit(spec, frozen=frozen)
    store = open_store(spec)
    world = Snapshot(LocalWorld(store, [spec.model]))
    steps = steps_of(spec, goal)
    found = forecast(steps, deep_keys(steps, world), store)
    store.close()
    return Planned(goal=goal, plan=steps, steps=found)


def build(
    spec: BuildSpec,
    goal: Goal = "package",
    *,
    reporter: Reporter | None = None,
    frozen: bool = False,
    allow_outside: bool = False,
) -> Built:
    """Bring the goal into the store; what failed is in the outcomes and in `error`."""
    together = build_together([spec], goal, reporter=reporter, frozen=frozen, allow_outside=allow_outside)
    return together.builds[0]


def build_together(
    specs: Sequence[BuildSpec],
    goal: Goal = "package",
    *,
    reporter: Reporter | None = None,
    frozen: bool = False,
    allow_outside: bool = False,
    plans: Callable[[BuildSpec, Goal], Plan] = steps_of,
) -> Together:
    """Build several specs as one plan: a step that they share runs once, and a failure hides no other."""
    for spec in specs:
        check_out(spec, allow_outside=allow_outside)
    specs = [admit(spec, frozen=frozen) for spec in specs]
    first = specs[0]
    store = open_store(first, reporter.message if reporter else None)
    world = LocalWorld(store, [spec.model for spec in specs])
    snapshot = Snapshot(world)
    steps = [plans(spec, goal) for spec in specs]
    keyed = [(found, deep_keys(found, snapshot)) for found in steps]
    graph = merge(keyed)
    outcomes = tuple(
        execute(
            graph,
            graph.keys,
            store,
            world=world,
            jobs=first.launch.jobs,
            timeout_s=first.launch.timeout_s,
            memory_mb=first.launch.memory_mb,
            keep_going=first.launch.keep_going,
            reporter=reporter,
            locate=LOCATE,
        )
    )
    by_key = {outcome.key.digest: outcome for outcome in outcomes}
    failure = next((outcome for outcome in outcomes if outcome.error), None)
    builds = [
        _built(spec, store, found, [by_key[keys[step.name].digest] for step in found], failure)
        for spec, (found, keys) in zip(specs, keyed, strict=True)
    ]
    store.close()
    return Together(builds=tuple(builds), outcomes=outcomes)


def _built(spec: BuildSpec, store: Store, found: Plan, outcomes: Sequence[Outcome], failure: Outcome | None) -> Built:
    """What of a common build belongs to one spec."""
    failed = next((outcome.error for outcome in outcomes if outcome.error is not None), None)
    goal = next(outcome for outcome in outcomes if outcome.step.name == found.goals[0])
    if goal.entry is None:
        error = failed or (failure.error if failure else None)
        return Built(spec=spec, plan=found, outcomes=tuple(outcomes), path=None, error=error)
    path = goal.entry.out
    if failed is None and spec.out is not None:
        path = _copied(store, goal.entry, Path(spec.out))
    return Built(spec=spec, plan=found, outcomes=tuple(outcomes), path=path, error=failed)


def _copied(store: Store, entry: Entry, out: Path) -> Path:
    """The entry's files in `out`; a package that was copied there before may be replaced, other files may not."""
    from qeffbuild.store.hand_out import export_tree

    export_tree(store, entry, out, replace=_is_package(out))
    return out.absolute()


def _is_package(folder: Path) -> bool:
    from qeffbuild.package import MANIFEST, members

    try:
        listed = Package.open(folder).manifest["files"]
    except VerificationError:
        return False
    return set(members(folder)) <= {MANIFEST, *listed}


def check_out(spec: BuildSpec, *, allow_outside: bool) -> None:
    """A build writes below the working folder unless it is told that it may write elsewhere."""
    if spec.out is None or allow_outside:
        return
    here = Path.cwd().resolve()
    if not Path(spec.out).resolve().is_relative_to(here):
        raise PathError(
            "path.outside", f"out: {spec.out} is not below {here}", hint="add --allow-outside if it is meant"
        )


# -- using a package --------------------------------------------------------------------------------------------------


def open_engine(built: Built) -> Engine:
    """The package, loaded on its devices."""
    from qeffbuild.runtime.engine import Engine

    return Engine.open(built.package, threads=getattr(built.spec.backend.options, "threads", None))


def prompts_of(spec: BuildSpec) -> tuple[str, ...]:
    """The spec's prompts, those in its file, or the model's examples."""
    if spec.prompts and spec.prompts_file:
        raise RunError("run.prompt", "prompts and prompts_file are both given", hint="give one of them")
    if spec.prompts_file:
        from qeffbuild.runtime.prompts import read_prompts

        return read_prompts(Path(spec.prompts_file))
    return spec.prompts or spec.model.example_prompts


def run(built: Built) -> Generation:
    """Generate answers to the spec's prompts."""
    return open_engine(built).generate(prompts_of(built.spec), built.spec.decoding)


def bench(built: Built) -> dict[str, Any]:
    """Median, least and most of each latency figure over spec.runs runs."""
    from qeffbuild.runtime.bench import bench as measure

    return measure(open_engine(built), prompts_of(built.spec), built.spec.decoding, runs=built.spec.runs)


def evaluate(built: Built) -> dict[str, Any]:
    """Perplexity on spec.eval_file, and how far the package agrees with PyTorch on the same tokens."""
    from qeffbuild.runtime import evaluate as scoring

    if built.spec.eval_file is None:
        raise RunError("run.eval", "eval_file: no text to measure on", hint="eval_file=FILE, some pages of plain text")
    engine = open_engine(built)
    text = scoring.read_text(engine, Path(built.spec.eval_file))
    ours = scoring.evaluate(engine, text)
    return scoring.as_json(ours, scoring.reference(model_folder(built), text))


def model_folder(built: Built) -> Path:
    """The checkpoint that a package was built from."""
    leaves = built.plan["fetch"].leaves
    return locate(leaves[0].path) if leaves else built.folder_of("fetch") / "model"
