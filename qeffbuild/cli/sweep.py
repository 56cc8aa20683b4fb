"""One command line with several values -> all its variants, built as one plan; no failure hides another variant."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qeffbuild import api, paths
from qeffbuild.cli.composed import Kept
from qeffbuild.cli.job import as_kept
from qeffbuild.cli.places import cache_root
from qeffbuild.cli.recall import KEPT, remember
from qeffbuild.cli.showing import as_line, as_text, show
from qeffbuild.cli.words import Command
from qeffbuild.errors import QeffBuildError, SpecError
from qeffbuild.report import text
from qeffbuild.report.progress import reporting
from qeffbuild.report.table import Look
from qeffbuild.spec.load import from_config
from qeffbuild.spec.types import BuildSpec

Document = dict[str, Any]


def sweep(command: Command, words: list[str]) -> int:
    """Run the sweep, print its table or document; the worst exit code of its variants."""
    if len(command.calls) != 1:
        raise SpecError("sweep.verb", "a sweep has one verb", hint=f"qeffbuild {command.calls[-1].verb} -m ...")
    task = Task(command)
    kept = Kept(cache_root(command.overrides))
    is_ours = not any(word.startswith(("hydra/", "hydra.")) for word in command.overrides)
    known = kept.load("sweep", command.overrides) if is_ours else None
    if known is not None:
        task.finish([Variant(tuple(said["overrides"]), said["composed"]) for said in known["variants"]])
    else:
        from qeffbuild.cli.hydra import multirun

        check_words(command.overrides)
        task.collect(multirun(command.overrides, task))
    shown = task.tell()
    code = max((variant.error.exit_code for variant in task.variants if variant.error), default=0)
    # Kept once nothing was refused: what is refused may hold what belongs into no file, such as a password.
    if known is None and code == 0 and is_ours and all(variant.composed for variant in task.variants):
        said = [{"overrides": variant.overrides, "composed": variant.composed} for variant in task.variants]
        kept.keep("sweep", command.overrides, {"variants": said, "environment": environment_of(task.variants)})
    if code == 0 and is_ours and task.up_to_date is not None and command.calls[0].verb in KEPT:
        remember(words, task.up_to_date, environment_of(task.variants), as_line(shown), "")
    return code


def check_words(words: Sequence[str]) -> None:
    """Refuse what cannot be read or may not be said, before Hydra is asked to take it apart."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from qeffbuild.spec.grammar import assignments

    parser = OverridesParser.create()
    for word in words:
        try:
            is_sweep = parser.parse_rule(word, "override").is_sweep_override()
        except (HydraException, ValueError):
            is_sweep = False
        if not is_sweep or word.startswith("hydra"):
            assignments([word])


def combinations(words: Sequence[str], loader: Any, limit: int) -> list[list[str]]:
    """Every combination of the values given, as Hydra's basic sweeper makes them; not more than `limit`."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    swept = [override for override in overrides if override.is_sweep_override()]
    for override in swept:
        if not override.is_discrete_sweep():
            what = f"{override.input_line}: an interval has no end of values"
            raise SpecError("sweep.interval", what, hint="list the values, or choose a sweeper: hydra/sweeper=NAME")
    number = math.prod(sum(1 for _ in override.sweep_string_iterator()) for override in swept)
    if number > limit:
        what = f"{number:,} variants, more than {limit:,}"
        raise SpecError("sweep.size", what, hint=f"sweep fewer values, or say so: hydra.sweeper.limit={number}")
    return BasicSweeper.split_arguments(overrides, None)[0]


@dataclass(slots=True)
class Variant:
    """One point of a sweep and what became of it."""

    overrides: tuple[str, ...]
    composed: Document | None = None
    spec: BuildSpec | None = None
    said: Document = field(default_factory=dict)
    error: QeffBuildError | None = None
    number: float = math.inf  # what an optimising sweeper looks at

    def as_json(self) -> Document:
        code = self.error.exit_code if self.error else 0
        said = {"overrides": list(self.overrides), "package": None, "exit_code": code, **self.said}
        return said | {"error": self.error.as_json()} if self.error else said


class Number(float):
    """What a job returns to Hydra: a figure that knows what it is the figure of, in whichever process it was found."""

    variant: Variant
    steps: Mapping[str, Document]

    def __new__(cls, variant: Variant, steps: Mapping[str, Document]) -> Number:
        number = super().__new__(cls, variant.number)
        number.variant = variant
        number.steps = steps
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        return (Number, (self.variant, dict(self.steps)))


class Task:
    """What Hydra calls for each variant, or our launcher for all of them together."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.variants: list[Variant] = []
        self.steps: dict[str, Document] = {}
        self.up_to_date: api.UpToDate | None = None

    def __call__(self, config: Any) -> Number:
        """One job alone, under a launcher that is not ours; the store still shares its steps with the others."""
        from hydra.core.hydra_config import HydraConfig

        return self.together([tuple(HydraConfig.get().overrides.task)])[0]

    def together(self, jobs: Sequence[Sequence[str]]) -> list[Number]:
        """All jobs of a batch; the number of each, for sweepers that look for the best."""
        variants = compose_all(jobs)
        self.finish(variants)
        return [Number(variant, self.steps) for variant in variants]

    def collect(self, batches: Any) -> None:
        """Take in what jobs have brought back from other processes; a sweeper may also return nothing at all."""
        if self.variants or not isinstance(batches, list):
            return
        for job in (job for batch in batches for job in batch):
            number = job.return_value
            if isinstance(number, Number):
                self.variants.append(number.variant)
                self.steps |= number.steps

    def finish(self, variants: Sequence[Variant]) -> None:
        """Load, plan, build and use the variants; whatever fails is kept with its variant."""
        start = len(self.variants)
        self.variants += variants
        for at, variant in enumerate(variants, start):
            if variant.error is None:
                with collecting(variant):
                    self._load(variant, at)
        good = [variant for variant in variants if variant.error is None]
        verb = self.command.calls[0].verb
        if good and verb == "plan":
            self._plan(good)
        elif good:
            self._build(good, verb)

    def tell(self) -> str:
        """Print the table or the document, and every error; what went to stdout."""
        said = {
            "schema": 1,
            "variants": [variant.as_json() for variant in self.variants],
            "steps": list(self.steps.values()),
        }
        shown = as_text(said) if self.command.has("--json") else text.variants(said, Look.of(sys.stdout))
        show(shown)
        failed = [(at, variant.error) for at, variant in enumerate(self.variants, 1) if variant.error is not None]
        for at, error in failed[:TOLD]:
            print(f"variant {at}: {error}", file=sys.stderr)
        if len(failed) > TOLD:
            print(f"and {len(failed) - TOLD} more: --json has them all", file=sys.stderr)
        return shown

    def _load(self, variant: Variant, at: int) -> None:
        assert variant.composed is not None, "a variant without a composition has an error"
        spec = from_config(variant.composed["values"], origins=variant.composed["origins"])
        if spec.out is not None:
            spec = replace(spec, out=f"{spec.out}/{at}")
        api.check_out(spec, allow_outside=self.command.has("--allow-outside"))
        variant.spec = api.admit(spec, frozen=self.command.has("--frozen"))

    def _plan(self, variants: Sequence[Variant]) -> None:
        specs = [variant.spec for variant in variants if variant.spec is not None]
        outlook = api.plan_together(specs, self.command.goal, frozen=self.command.has("--frozen"))
        self.up_to_date = outlook.up_to_date
        for variant, planned in zip(variants, outlook.plans, strict=True):
            said = planned.as_json()["steps"]
            new = [step for step in said if step["status"] != "hit"]
            variant.said = {"steps_to_build": len(new), "steps": [step["deep"] for step in said]}
            variant.number = float(len(new))
            self.steps |= {step["deep"]: step for step in said if step["deep"] not in self.steps}

    def _build(self, variants: Sequence[Variant], verb: str) -> None:
        specs = [variant.spec for variant in variants if variant.spec is not None]
        goal = "render" if verb == "emit" else self.command.goal
        outside = self.command.has("--allow-outside")
        with reporting() as reporter:
            frozen = self.command.has("--frozen")
            together = api.build_together(specs, goal, reporter=reporter, allow_outside=outside, frozen=frozen)
        self.up_to_date = together.up_to_date
        for outcome in together.outcomes:
            said = outcome.as_json() | {"deep": outcome.key.digest}
            self.steps.setdefault(outcome.key.digest, said)
        for variant, built in zip(variants, together.builds, strict=True):
            with collecting(variant):
                variant.said = {"package": str(built.path) if built.path else None}
                variant.said["result"] = result_of(built)
                variant.number = sum(outcome.seconds for outcome in built.outcomes)
                if built.error is not None:
                    raise built.error
                USES.get(verb, _nothing_more)(variant, built)


class collecting:
    """Keep a variant's error with it, so that it ends nobody else."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, QeffBuildError) and error.exit_code != INTERRUPTED:
            self._variant.error = error
            self._variant.number = math.inf
            return True
        return False


INTERRUPTED = 130
TOLD = 20  # errors; the document has them all


def compose_all(jobs: Sequence[Sequence[str]]) -> list[Variant]:
    """The variants with their configurations: choices that several share are composed once."""
    from qeffbuild.spec.compose import compose_variants

    words = [tuple(word for word in job if not word.startswith(("hydra.", "hydra/"))) for job in jobs]
    found = compose_variants([], words, conf_dirs=paths.user_conf_dirs(Path.cwd()))
    return [
        Variant(job, error=said) if isinstance(said, QeffBuildError) else Variant(job, as_kept(said))
        for job, said in zip(words, found, strict=True)
    ]


def environment_of(variants: Sequence[Variant]) -> Document:
    return {name: value for variant in variants for name, value in (variant.composed or {})["environment"].items()}


def result_of(built: api.Built) -> str:
    if built.error is not None:
        return "failed"
    return "built" if any(outcome.result == "built" for outcome in built.outcomes) else "hit"


def _nothing_more(variant: Variant, built: api.Built) -> None:
    """`build` ends with the package."""


def _run(variant: Variant, built: api.Built) -> None:
    said = api.run(built).as_json()
    variant.said |= said | {"figures": said["metrics"]}
    variant.number = said["metrics"]["e2e_s"]


def _bench(variant: Variant, built: api.Built) -> None:
    figures = api.bench(built)
    variant.said |= figures | {"figures": {name: figure["median"] for name, figure in figures.items()}}
    variant.number = figures["e2e_s"]["median"]


def _evaluate(variant: Variant, built: api.Built) -> None:
    figures = api.evaluate(built)
    variant.said |= figures | {"figures": figures}
    variant.number = figures["perplexity"]


def _emit(variant: Variant, built: api.Built) -> None:
    said = api.hand_out(built)
    variant.said = {name: said[name] for name in ("folder", "files", "commands")}


USES: Mapping[str, Callable[[Variant, api.Built], None]] = {
    "run": _run,
    "bench": _bench,
    "eval": _evaluate,
    "emit": _emit,
}
