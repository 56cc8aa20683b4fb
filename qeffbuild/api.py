"""The public functions: the only place that joins the rooms.

spec = compose(["model=gpt2", "quantization=int8"])
print(plan(spec).as_json())
package = build(spec).package
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeffbuild import backends, paths
from qeffbuild.errors import ModelError, PathError, QeffBuildError, RunError, SpecError, VerificationError
from qeffbuild.executor.execute import execute
from qeffbuild.executor.outcome import Outcome
from qeffbuild.executor.reporter import Reporter, Silent
from qeffbuild.package import Package
from qeffbuild.plan import Goal, Plan, resolve
from qeffbuild.plan.keys import deep_keys
from qeffbuild.plan.merge import merge
from qeffbuild.report.forecast import Forecast, forecast
from qeffbuild.report.installed import distributions
from qeffbuild.report.keeping import cache_du, cache_gc, cache_ls, cache_verify
from qeffbuild.spec.load import from_config
from qeffbuild.spec.types import BuildSpec, ModelSpec
from qeffbuild.store import Entry, Store
from qeffbuild.store.hand_out import export_tree
from qeffbuild.world import LOCATE, LocalWorld, Snapshot, locate

if TYPE_CHECKING:
    from qeffbuild.report.differences import Side
    from qeffbuild.runtime.engine import Engine, Generation

__all__ = [
    "Built",
    "Planned",
    "Together",
    "admit",
    "bench",
    "build",
    "build_together",
    "cache_du",
    "cache_gc",
    "cache_ls",
    "cache_verify",
    "check",
    "compose",
    "diff",
    "doctor",
    "emit",
    "evaluate",
    "open_engine",
    "open_store",
    "plan",
    "plan_together",
    "run",
    "verify",
    "why",
]
COMMANDS = "commands.json"  # what a rendering backend leaves beside its documents: one argument list per command


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
    world: LocalWorld  # what the keys depended on
    at_ns: int  # when it was looked at


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
    return plan_together([admit(spec, frozen=frozen)], goal)[0]


def plan_together(specs: Sequence[BuildSpec], goal: Goal = "package") -> list[Planned]:
    """The same for several admitted specs; what they share is looked at once."""
    store = open_store(specs[0])
    world = Snapshot(LocalWorld(store, [spec.model for spec in specs]))
    planned = []
    for steps in (steps_of(spec, goal) for spec in specs):
        found = forecast(steps, deep_keys(steps, world), store)
        planned.append(Planned(goal=goal, plan=steps, steps=found))
    store.close()
    return planned


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
    at_ns = time.time_ns()
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
    return Together(builds=tuple(builds), outcomes=outcomes, world=world, at_ns=at_ns)


def _built(spec: BuildSpec, store: Store, found: Plan, outcomes: Sequence[Outcome], failure: Outcome | None) -> Built:
    """What of a common build belongs to one spec."""
    failed = next((outcome.error for outcome in outcomes if outcome.error is not None), None)
    goal = next(outcome for outcome in outcomes if outcome.step.name == found.goals[0])
    if goal.entry is None:
        error = failed or (failure.error if failure else None)
        return Built(spec=spec, plan=found, outcomes=tuple(outcomes), path=None, error=error)
    path = goal.entry.out
    if failed is None and spec.out is not None and "package" in found.goals[0]:
        path = _copied(store, goal.entry, Path(spec.out))
    return Built(spec=spec, plan=found, outcomes=tuple(outcomes), path=path, error=failed)


def _copied(store: Store, entry: Entry, out: Path) -> Path:
    """The entry's files in `out`; a package that was copied there before may be replaced, other files may not."""
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

    file = eval_file_of(built.spec)
    engine = open_engine(built)
    text = scoring.read_text(engine, file)
    ours = scoring.evaluate(engine, text)
    return scoring.as_json(ours, scoring.reference(model_folder(built), text))


def eval_file_of(spec: BuildSpec) -> Path:
    if spec.eval_file is None:
        raise RunError("run.eval", "eval_file: no text to measure on", hint="eval_file=FILE, some pages of plain text")
    return Path(spec.eval_file)


def model_folder(built: Built) -> Path:
    """The checkpoint that a package was built from."""
    leaves = built.plan["fetch"].leaves
    return locate(leaves[0].path) if leaves else built.folder_of("fetch") / "model"


# -- explaining -------------------------------------------------------------------------------------------------------


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
    from qeffbuild.report.differences import differences, package_differences

    sides = [_side(one), _side(other)]
    if all(sides):
        steps = differences(sides[0], sides[1])  # type: ignore[arg-type]
    else:
        steps = package_differences(*(Package.open(_package_of(side)) for side in (one, other)))
    return {"schema": 1, "same": all(step["same"] for step in steps), "steps": steps}


def _side(build: BuildSpec | Path) -> Side | None:
    from qeffbuild.report.differences import Side, side_of_package

    if isinstance(build, Path):
        return side_of_package(build)
    spec = admit(build)
    store = open_store(spec)
    steps = steps_of(spec, "package")
    keys = deep_keys(steps, LocalWorld(store, [spec.model]))
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


# -- keeping house ----------------------------------------------------------------------------------------------------


def verify(path: Path) -> dict[str, Any]:
    """Check every byte of a package against its manifest."""
    package = Package.open(path, verify=True)
    files = package.manifest["files"]
    return {"schema": 1, "path": str(path), "files": len(files), "bytes": sum(file["size"] for file in files.values())}


def doctor(root: Path) -> dict[str, Any]:
    """What a build needs of this machine, and whether it is there."""
    from qeffbuild.report.doctor import examine

    return {"schema": 1, "checks": [check.as_json() for check in examine(root, distributions())]}


def check(spec: BuildSpec, name: str, *, reporter: Reporter | None = None, frozen: bool = False) -> dict[str, Any]:
    """Run a step once more and compare its files with those that the store has."""
    from qeffbuild.executor.once import Room, run_action
    from qeffbuild.executor.process import Worker
    from qeffbuild.store.disk import hash_file, walk_files

    built = build_together([replace(spec, out=None)], reporter=reporter, frozen=frozen, plans=_up_to(name)).builds[0]
    if built.error is not None:
        raise built.error
    store = open_store(spec)
    room = Room(
        store=store,
        world=LocalWorld(store, [built.spec.model]),
        reporter=reporter or Silent(),
        timeout_s=spec.launch.timeout_s,
        memory_mb=spec.launch.memory_mb,
        locate=LOCATE,
        in_process=(),
    )
    entries = {outcome.step.name: outcome.entry for outcome in built.outcomes if outcome.entry}
    step, worker = built.plan[name], Worker()
    try:
        with store.staging() as staging:
            run_action(step, {role: entries[source] for role, source in step.inputs.items()}, staging, room, worker)
            again = {relative: hash_file(entry.path) for relative, entry in walk_files(staging.out)}
    finally:
        worker.stop()
        store.close()
    once = {relative: file.sha256 for relative, file in entries[name].record.files.items()}
    different = sorted(relative for relative in once | again if once.get(relative) != again.get(relative))
    return {"schema": 1, "step": name, "same": not different, "different": different, "files": len(once)}


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


# -- handing out ------------------------------------------------------------------------------------------------------


def emit(
    spec: BuildSpec, *, reporter: Reporter | None = None, frozen: bool = False, allow_outside: bool = False
) -> dict[str, Any]:
    """The vendor's inputs and command lines in a folder that needs nothing else, the weights beside the graph."""
    check_out(spec, allow_outside=allow_outside)
    built = build_together([spec], "render", reporter=reporter, frozen=frozen, allow_outside=allow_outside).builds[0]
    return hand_out(built)


def hand_out(built: Built) -> dict[str, Any]:
    """What `emit` leaves: the rendered folder and the weights that its graph points at."""
    entry = next(outcome.entry for outcome in built.outcomes if outcome.step.name == built.plan.goals[0])
    if built.error is not None:
        raise built.error
    assert entry is not None, "a build without an error has its goal"
    spec = built.spec
    out = Path(spec.out or f"outputs/{spec.model.name}-{spec.backend.name}-{entry.record.key[:12]}").absolute()
    store = open_store(spec)
    export_tree(store, entry, out, replace=(out / COMMANDS).is_file())
    _lay_weights(out, model_folder(built))
    store.close()
    commands = json.loads((out / COMMANDS).read_text()) if (out / COMMANDS).is_file() else []
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {"schema": 1, "folder": str(out), "files": files, "commands": commands}


def _lay_weights(out: Path, checkpoint: Path) -> None:
    """Beside the graph, the files of the checkpoint that it points into."""
    if not (out / "graph.onnx").is_file():
        return
    import onnx_ir as ir

    from qeffbuild.graph.files import load_graph
    from qeffbuild.graph.weights import Folder
    from qeffbuild.store.disk import copy_file

    tensors = [value.const_value for value in load_graph(out / "graph.onnx").graph.initializers.values()]
    for location in {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}:
        source = Folder(checkpoint, is_checkpoint=True).resolve(location)
        if source is not None and not (out / location).exists():
            (out / location).parent.mkdir(parents=True, exist_ok=True)
            copy_file(source, out / location)
