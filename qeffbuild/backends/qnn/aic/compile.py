"""The rendered folder and the model's weights -> a program, by the SDK's converter and its context binary generator."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from qeffbuild.backends.qnn.aic.command import DLC, made_by
from qeffbuild.backends.qnn.aic.sdk import CONVERTER, GENERATOR, find_sdk
from qeffbuild.cloud_ai_100.folder import lay_out
from qeffbuild.cloud_ai_100.names import COMMANDS, PROGRAM
from qeffbuild.errors import BackendError, StepError
from qeffbuild.executor.command import run_command
from qeffbuild.executor.work import Work


def run(work: Work) -> None:
    sdk = find_sdk(work.params["sdk"])
    stage = work.out / "stage"
    lay_out(work, stage)
    if dlc := work.leaves.get("dlc"):
        if not dlc.is_file() or dlc.stat().st_size == 0:
            raise BackendError("backend.file", f"backend.dlc_file: {dlc} is no file, or empty")
        shutil.copyfile(dlc, stage / DLC)
    commands = json.loads((stage / COMMANDS).read_text())
    for argv in commands:
        made = stage / made_by(argv)
        made.parent.mkdir(exist_ok=True)
        run_command(argv, cwd=stage)
        _check(made, Path(argv[0]).name)
        if made.name == PROGRAM:
            kept = work.out / made.parent.relative_to(stage)
            kept.parent.mkdir(exist_ok=True)
            made.parent.rename(kept)
    shutil.rmtree(stage)
    said = {
        "schema": 1,
        "commands": commands,
        "sdk_version": sdk.version,
        "tools_sha256": {Path(tool).name: _sha256(sdk.root / tool) for tool in (CONVERTER, GENERATOR)},
    }
    (work.out / "compile.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def _check(made: Path, tool: str) -> None:
    """A tool that ends well and leaves nothing, or an empty file, has failed."""
    if not made.is_file() or made.is_symlink():
        raise StepError("step.output", f"{tool} ended well but left no {made.name}", hint="read its log")
    if made.stat().st_size == 0:
        raise StepError("step.output", f"{tool} ended well but left an empty {made.name}", hint="read its log")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
