"""The rendered folder and the model's weights -> a compiled program, by the vendor's compiler where there is one."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from qeffbuild.backends.qaic.command import COMPILER, output_of
from qeffbuild.backends.qaic.compiler import find_compiler
from qeffbuild.cloud_ai_100.folder import lay_out
from qeffbuild.cloud_ai_100.names import COMMANDS, PROGRAM
from qeffbuild.errors import StepError
from qeffbuild.executor.command import run_command
from qeffbuild.executor.work import Work
from qeffbuild.spec.types import BuildSpec


def run(work: Work) -> None:
    compiler = find_compiler(work.leaves["compiler"], is_named=work.params["compiler_is_named"])
    stage = work.out / "stage"
    lay_out(work, stage)
    commands = json.loads((stage / COMMANDS).read_text())
    for argv in commands:
        argv[0] = str(compiler)
        run_command(argv, cwd=stage)
        _check_program(stage / output_of(argv))
        _keep(stage, work.out, argv)
    shutil.rmtree(stage)
    said = {"schema": 1, "argv": argv, "others": commands[:-1], "compiler_sha256": _sha256(compiler)}
    (work.out / "compile.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def compile_folder(spec: BuildSpec, argv: list[str], folder: Path, output: str) -> None:
    """The same for a folder of documents that lies anywhere; the program is then in `output` there."""
    named = spec.backend.options.compiler
    compiler = find_compiler(Path(named or COMPILER), is_named=named is not None)
    run_command([str(compiler), *argv[1:]], cwd=folder, timeout_s=float(spec.launch.timeout_s))
    _check_program(folder / output)


def _check_program(output: Path) -> None:
    """A compiler that ends well and leaves nothing, or an empty file, has failed."""
    program = output / PROGRAM
    if not program.is_file() or program.is_symlink():
        raise StepError("step.output", f"the compiler ended well but left no {PROGRAM}", hint="read its log")
    if program.stat().st_size == 0:
        raise StepError("step.output", f"the compiler ended well but left an empty {PROGRAM}", hint="read its log")


def _keep(stage: Path, out: Path, argv: list[str]) -> None:
    """The program, and the partitions if the compiler was asked for them; the rest was only for it."""
    kept = out / output_of(argv)
    kept.parent.mkdir(exist_ok=True)
    (stage / output_of(argv)).rename(kept)
    for argument in argv:
        flag, _, name = argument.partition("=")
        if flag == "-mdp-dump-partition-config":
            if not (stage / name).is_file():
                raise StepError("step.output", f"the compiler left no {name}", hint="read its log")
            (stage / name).rename(out / name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
