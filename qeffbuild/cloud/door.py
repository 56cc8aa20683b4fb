"""The words of one of QEfficient's command lines -> what ours does for them, and its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from qeffbuild.cli.front import guarded
from qeffbuild.cli.front import main as command_line
from qeffbuild.compat.flags import dashed, flags_of
from qeffbuild.compat.translate import Translation, translate
from qeffbuild.compat.words import Said, read_words
from qeffbuild.errors import SpecError


def main(module: str, words: Sequence[str] | None = None) -> int:
    """The exit code of `python -m qeffbuild.cloud.MODULE WORDS`."""
    said = list(sys.argv[1:] if words is None else words)
    return guarded(lambda: _answer(module, said), debug="--debug" in said)


def _answer(module: str, words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        print(_help(module))
        return 0
    said = read_words(module, [word for word in words if word != "--debug"])
    if said.stray:
        raise SpecError("flag.unknown", f"{said.stray[0]}: no such flag", hint=f"--help lists those of {module}")
    _set_environment(said)
    if module == "execute":
        from qeffbuild.cloud.package import run_package

        return run_package(said.values)
    if module == "compile":
        from qeffbuild.cloud.graph import compile_graph

        return compile_graph(said, _translated(said))
    verb = ["build", "--to", "export"] if module == "export" else ["run"]
    return command_line([*verb, *_translated(said).overrides(), *said.overrides])


def _translated(said: Said) -> Translation:
    made = translate(said.values, said.others)
    for word in said.overrides:
        name, _, choice = word.partition("=")
        if name == "backend":
            made.move_to(choice)
        if name == "model":
            made.take_model_from_elsewhere()
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    return made


def _set_environment(said: Said) -> None:
    """What the hub's client reads; a token goes nowhere else."""
    for name, variable in (("cache_dir", "HF_HUB_CACHE"), ("hf_token", "HF_TOKEN")):
        if value := said.values.get(name):
            os.environ[variable] = str(Path(value).absolute()) if name == "cache_dir" else value


def _help(module: str) -> str:
    lines = [f"python -m qeffbuild.cloud.{module} FLAG ... [KEY=VALUE ...]", ""]
    for flag in dict.fromkeys(flags_of(module).values()):
        typed = ", ".join(map(dashed, flag.spellings)) + (" (needed)" if module in flag.required else "")
        means = f"{flag.does} ({flag.key})" if flag.key else flag.does
        lines.append(f"  {typed:<44} {means}")
    lines += ["", "Dashes and underscores are one sign. Other --flags are options of the compiler."]
    return "\n".join([*lines, "KEY=VALUE words are ours: backend=onnxruntime runs on this machine's processor."])
