"""A built package -> answers, latency figures and scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeffbuild.api.building import Built
from qeffbuild.errors import RunError
from qeffbuild.spec.types import BuildSpec
from qeffbuild.world import locate

if TYPE_CHECKING:
    from qeffbuild.runtime.engine import Engine, Generation


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
    """Perplexity on the spec's text, and how far the package agrees with PyTorch on the same tokens."""
    from qeffbuild.runtime import evaluate as scoring

    file = eval_file_of(built.spec)
    engine = open_engine(built)
    text = scoring.read_text(engine, file)
    ours = scoring.evaluate(engine, text)
    return scoring.as_json(ours, scoring.reference(model_folder(built), text))


def eval_file_of(spec: BuildSpec) -> Path:
    """The text of the spec, else the one that comes with its model."""
    file = spec.eval_file or spec.model.eval_file
    if file is None:
        raise RunError("run.eval", "eval_file: no text to measure on", hint="eval_file=FILE, some pages of plain text")
    return Path(file)


def model_folder(built: Built) -> Path:
    """The checkpoint that a package was built from."""
    leaves = built.plan["fetch"].leaves
    return locate(leaves[0].path) if leaves else built.folder_of("fetch") / "model"
