"""A built package -> answers, latency figures and scores."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeffbuild import backends
from qeffbuild.api.built import Built
from qeffbuild.errors import RunError
from qeffbuild.package import Package
from qeffbuild.spec.types import BuildSpec
from qeffbuild.world import locate

if TYPE_CHECKING:
    from qeffbuild.runtime.engine import Engine, Generation
    from qeffbuild.runtime.reading import Answers, Asked, Reader


CONTINUING = ("causal-lm", "image-text")  # tasks that go on with a text


def require_devices(spec: BuildSpec) -> None:
    """Raises AbsentError before a build whose package this machine could not run."""
    require = getattr(import_module(backends.package_of(spec.backend.name)), "require_devices", None)
    if require is not None:
        require(spec)


def open_engine(built: Built) -> Engine:
    """The package, loaded on its devices, to go on with texts."""
    from qeffbuild.runtime.engine import Engine

    check_continues(built.spec, task_of(built))
    return Engine.open(built.package, threads=_threads(built), devices=_devices(built))


def check_continues(spec: BuildSpec, task: str | None) -> None:
    """Refuses a model that does not go on with a text; None is a task that is not known yet."""
    if task not in (None, *CONTINUING):
        found = f"{spec.model.name}: a model of task {task} does not go on with a text"
        raise RunError("run.task", found, hint="`qeffbuild run` prints what it does")


def open_reader(built: Built) -> Reader:
    """The package of another task, loaded on its devices."""
    from qeffbuild.runtime.reader import open_reader as opened

    return opened(built.package, threads=_threads(built), devices=_devices(built))


def task_of(built: Built) -> str:
    """What a built package does."""
    from qeffbuild.package import Package

    return Package.open(built.package).task


def asked_of(spec: BuildSpec) -> Asked:
    """What a run of the spec is given; a model that hears has no use for its example prompts."""
    from qeffbuild.runtime.reading import Asked

    return Asked(prompts=prompts_of(spec), audio=spec.audio, images=spec.images, decoding=spec.decoding)


def _threads(built: Built) -> int | None:
    return getattr(built.spec.backend.options, "threads", None)


def _devices(built: Built) -> tuple[int, ...]:
    """Those that the spec names; where it only counts them, none."""
    group = built.spec.device_group
    return group.devices if group.num_devices is None else ()


def prompts_of(spec: BuildSpec) -> tuple[str, ...]:
    """The spec's prompts, those in its file, or the model's examples."""
    if spec.prompts and spec.prompts_file:
        raise RunError("run.prompt", "prompts and prompts_file are both given", hint="give one of them")
    if spec.prompts_file:
        from qeffbuild.runtime.prompts import read_prompts

        return read_prompts(Path(spec.prompts_file))
    return spec.prompts or spec.model.example_prompts


def check_asked(task: str, asked: Asked) -> None:
    """Refuses what a model of this task cannot take."""
    from qeffbuild.runtime import reader

    reader.check_asked(task, asked)


def run(built: Built) -> Generation | Answers:
    """Answers to what the spec asks: text, embeddings, labels or transcripts, by the model's task."""
    asked = asked_of(built.spec)
    check_asked(task_of(built), asked)
    if task_of(built) in CONTINUING:
        return open_engine(built).generate(asked.prompts, asked.decoding, asked.images)
    return open_reader(built).answer(asked)


def bench(built: Built) -> dict[str, Any]:
    """Median, least and most of each latency figure over spec.runs runs."""
    from qeffbuild.runtime.bench import bench as measure

    return measure(open_engine(built), prompts_of(built.spec), built.spec.decoding, runs=built.spec.runs)


def evaluate(built: Built) -> dict[str, Any]:
    """Perplexity on the spec's text, and how far the package agrees with PyTorch on the same tokens."""
    from qeffbuild.runtime import evaluate as scoring

    file = eval_file_of(built.spec)
    engine = open_engine(built)
    spec = built.spec
    text = scoring.read_text(
        engine, file, stride=spec.eval_stride, max_tokens=spec.eval_tokens, protocol=spec.eval_protocol
    )
    quantization = Package.open(built.package).manifest["quantization"]
    return {**scoring.compare(engine, model_folder(built), text), "quantization": quantization}


def eval_file_of(spec: BuildSpec) -> Path:
    """The text of the spec, else the one that comes with its model."""
    file = spec.eval_file or spec.model.eval_file
    if file is None:
        raise RunError("run.eval", "eval_file: no text to measure on", hint="eval_file=FILE, some pages of plain text")
    if not Path(file).is_file():
        raise RunError("run.eval", f"eval_file: there is no file {file}", hint="check the path")
    return Path(file)


def model_folder(built: Built) -> Path:
    """The checkpoint that a package was built from."""
    leaves, own = built.plan["fetch"].leaves, built.folder_of("fetch") / "model"
    return own if own.is_dir() or not leaves else locate(leaves[0].path)
