"""A Command -> calls of `api`, and their results on stdout: for people as text, for programs as one JSON document."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qeffbuild import api
from qeffbuild.cli.amounts import age_of, size_of
from qeffbuild.cli.job import Document, Job, spec_of
from qeffbuild.cli.places import cache_root
from qeffbuild.cli.recall import KEPT, remember
from qeffbuild.cli.showing import as_line, as_text, show
from qeffbuild.cli.words import Call, Command
from qeffbuild.errors import AbsentError, QeffBuildError, SpecError, StoreError, VerificationError
from qeffbuild.report import text
from qeffbuild.report.progress import reporting
from qeffbuild.report.table import Look, table
from qeffbuild.store import Store


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb found. `shown` is for stdout, `told` for stderr; `error` is what kept it from its product."""

    said: Document
    shown: str = ""
    told: str = ""
    error: QeffBuildError | None = None


def obey(command: Command, words: list[str]) -> int:
    """Answer every verb in turn; the first failure ends it, as in make."""
    if command.has("--offline"):
        os.environ["HF_HUB_OFFLINE"] = "1"
    if command.is_sweep:
        from qeffbuild.cli.sweep import sweep

        return sweep(command, words)
    job = Job(command)
    answers: dict[str, Document] = {}
    for call in command.calls:
        answer = VERBS[call.verb](job, call)
        answers[call.verb] = answer.said
        if not command.has("--json"):
            show(answer.shown, answer.told)
        if answer.error is not None:
            answers[call.verb] = answer.said | {"error": answer.error.as_json()}
            print(answer.error, file=sys.stderr)
            break
    if command.has("--json"):
        document = next(iter(answers.values())) if len(answers) == 1 else {"schema": 1, **answers}
        answer = replace(answer, shown=as_text(document), told="")
        show(answer.shown)
    is_kept = len(answers) == 1 and command.calls[0].verb in KEPT and answer.error is None
    if is_kept and job.up_to_date is not None:
        remember(words, job.up_to_date, job.variables, *map(as_line, (answer.shown, answer.told)))
    return answer.error.exit_code if answer.error else 0


# -- verbs ------------------------------------------------------------------------------------------------------------


def plan(job: Job, call: Call) -> Answer:
    outlook = api.plan_together([job.spec], job.goal, **job.flags)
    job.up_to_date = outlook.up_to_date
    said = outlook.plans[0].as_json()
    return Answer(said, shown=text.plan(said, Look.of(sys.stdout)))


def build(job: Job, call: Call) -> Answer:
    if step := job.command.value("--check"):
        return _check(job, step)
    built = job.build(job.goal)
    said = built.as_json()
    return Answer(said, shown=said["package"] or "", told=told(said), error=built.error)


def told(said: Document) -> str:
    """What became of the steps: a table on a terminal; elsewhere the lines of the build have said it."""
    look = Look.of(sys.stderr)
    is_news = any(step["result"] != "hit" for step in said["steps"])
    return text.sum_of(said["steps"]) if look.width is None or not is_news else text.outcomes(said["steps"], look)


def _check(job: Job, step: str) -> Answer:
    with reporting() as reporter:
        said = api.check(job.spec, step, reporter=reporter, **job.flags)
    same = said["same"]
    shown = f"{step}: two runs gave {'the same bytes' if same else 'different bytes: ' + ', '.join(said['different'])}"
    return Answer(said, shown=shown, error=None if same else api.not_reproducible(said))


def run(job: Job, call: Call) -> Answer:
    asked = _asked(job)
    api.require_devices(job.spec)
    built = job.built()
    api.check_asked(task := api.task_of(built), asked)
    if task not in api.CONTINUING:
        return _read(job, built, asked)
    prompts = asked.prompts
    engine = api.open_engine(built)
    stream = engine.stream(prompts, job.spec.decoding, asked.images)
    if not job.as_json:
        _stream(stream, prompts)
    result = stream.result()
    said = {"schema": 1, "package": str(built.package), **result.as_json()}
    return Answer(said, told=f"\n{text.metrics(said['metrics'], Look.of(sys.stderr))}")


def _asked(job: Job) -> Any:
    """What a run is given, if a model of this task can take it; what the hub's files do not say yet is seen later."""
    asked, task = api.asked_of(job.spec), api.known_task(job.spec)
    if task is not None:
        api.check_asked(task, asked)
    return asked


def _read(job: Job, built: api.Built, asked: Any) -> Answer:
    """What a model of another task makes of its inputs, one row each."""
    answers = api.open_reader(built).answer(asked)
    said = {"schema": 1, "package": str(built.package), **answers.as_json()}
    shown = "\n".join(row[0] for row in answers.rows)
    if answers.columns:
        shown = table(answers.columns, answers.rows, Look.of(sys.stdout))
    return Answer(said, shown=shown, told=f"\n{text.metrics(said['metrics'], Look.of(sys.stderr))}")


def _stream(stream: Any, prompts: tuple[str, ...]) -> None:
    """The answers as they come on stdout; the prompts beside them on stderr."""
    from qeffbuild.runtime.transcript import transcript

    look = Look.of(sys.stderr)
    for at, prompt in enumerate(prompts):
        tag = f"[{at + 1}] " if len(prompts) > 1 else ""
        print(look.paint(f"{tag}{prompt}", "2"), file=sys.stderr, end="" if len(prompts) == 1 else "\n", flush=True)
    for piece in transcript(stream, len(prompts)):
        print(piece, end="", flush=True)


def bench(job: Job, call: Call) -> Answer:
    api.check_continues(job.spec, api.known_task(job.spec))
    _asked(job)
    api.require_devices(job.spec)
    built = job.built()
    figures = api.bench(built)
    return Answer(
        {"schema": 1, "package": str(built.package), **figures}, shown=text.metrics(figures, Look.of(sys.stdout))
    )


def evaluate(job: Job, call: Call) -> Answer:
    api.eval_file_of(job.spec)
    api.check_continues(job.spec, api.known_task(job.spec))
    api.require_devices(job.spec)
    built = job.built()
    figures = api.evaluate(built)
    said = {"schema": 1, "package": str(built.package), **figures}
    return Answer(said, shown=text.evaluation(figures, Look.of(sys.stdout)))


def emit(job: Job, call: Call) -> Answer:
    with reporting() as reporter:
        outside = job.command.has("--allow-outside")
        said = api.emit(job.spec, reporter=reporter, allow_outside=outside, **job.flags)
    return Answer(said, shown=said["folder"], told=text.commands(said))


def why(job: Job, call: Call) -> Answer:
    said = api.why(job.spec, call.operands[0] if call.operands else None, job.goal, **job.flags)
    return Answer(said, shown=text.why(said, Look.of(sys.stdout)))


def diff(job: Job, call: Call) -> Answer:
    import shlex

    common = job.command.overrides
    sides = [Path(side) if Path(side).is_dir() else spec_of((*common, *shlex.split(side))) for side in call.operands]
    said = api.diff(sides[0], sides[1])
    return Answer(said, shown=text.diff(said, Look.of(sys.stdout)))


def graph(job: Job, call: Call) -> Answer:
    from qeffbuild.report.graph import FORMS, as_json
    from qeffbuild.report.graph import graph as drawn

    form = call.operands[0] if call.operands else FORMS[0]
    if form not in FORMS:
        raise SpecError("verb.operand", f"graph {form}: no such form", hint=f"one of: {', '.join(FORMS)}")
    planned = api.plan(job.spec, job.goal, **job.flags)
    statuses = {step.step.name: "hit" if step.status == "hit" else "build" for step in planned.steps}
    return Answer(as_json(planned.plan, statuses), shown=drawn(planned.plan, statuses, form))


def lock(job: Job, call: Call) -> Answer:
    file = api.write_lock(Path.cwd(), job.command.overrides, job.built())
    return Answer({"schema": 1, "lock": str(file)}, shown=str(file))


def verify(job: Job, call: Call) -> Answer:
    said = api.verify(Path(call.operands[0]))
    return Answer(said, shown=text.verified(said, Look.of(sys.stdout)))


def import_(job: Job, call: Call) -> Answer:
    from qeffbuild.compat.recipe import import_words

    made = import_words(call.operands)
    said = {"schema": 1, "recipe": made.text, "overrides": list(made.overrides), "notes": list(made.notes)}
    return Answer(said, shown=made.text.rstrip(), told="\n".join(f"note: {note}" for note in made.notes))


def doctor(job: Job, call: Call) -> Answer:
    said = api.doctor(Path(cache_root(job.command.overrides)))
    return Answer(said, shown=text.doctor(said, Look.of(sys.stdout)), error=illness(said))


def illness(said: Document) -> QeffBuildError | None:
    """What doctor found wrong, as the error that a build would end in."""
    wrong = [check for check in said["checks"] if check["ok"] is False]
    if not wrong:
        return None
    from qeffbuild.report.doctor import STORAGE

    names = ", ".join(check["name"] for check in wrong)
    is_storage = any(check["name"] in STORAGE for check in wrong)
    error = StoreError if is_storage else AbsentError
    return error(
        "cache.unfit" if is_storage else "library.absent", f"not as it should be: {names}", hint=wrong[0]["hint"]
    )


def completion(job: Job, call: Call) -> Answer:
    from qeffbuild.cli.complete import script

    return Answer({"schema": 1, "script": script(call.operands[0])}, shown=script(call.operands[0]).rstrip())


def cache(job: Job, call: Call) -> Answer:
    store = Store(Path(cache_root(job.command.overrides)))
    look = Look.of(sys.stdout)
    if call.operands[0] == "ls":
        said = api.cache_ls(store)
        return Answer(said, shown=text.cache_ls(said, look))
    if call.operands[0] == "du":
        said = api.cache_du(store)
        return Answer(said, shown=text.cache_du(said, look))
    if call.operands[0] == "gc":
        said = api.cache_gc(store, **_limits(job.command))
        return Answer(said, shown=text.cache_gc(said))
    said = api.cache_verify(store)
    damaged = said["damaged"]
    error = VerificationError(damaged[0]["kind"], damaged[0]["message"], hint=damaged[0]["hint"]) if damaged else None
    return Answer(said, shown=text.cache_verify(said), error=error)


def _limits(command: Command) -> dict[str, Any]:
    largest, oldest = command.value("--max-size"), command.value("--older")
    return {
        "max_size": size_of(largest) if largest else None,
        "older_s": age_of(oldest) if oldest else None,
        "keep_roots": command.has("--keep-roots"),
        "dry_run": command.has("--dry-run"),
    }


VERBS: Mapping[str, Callable[[Job, Call], Answer]] = {
    "plan": plan,
    "build": build,
    "run": run,
    "emit": emit,
    "bench": bench,
    "eval": evaluate,
    "why": why,
    "diff": diff,
    "graph": graph,
    "cache": cache,
    "lock": lock,
    "verify": verify,
    "import": import_,
    "doctor": doctor,
    "completion": completion,
}
