"""The small pipeline as a target: a folder with its source and its code, and the command that builds it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from lab import Target

HERE = Path(__file__).resolve().parent


def small_target(folder: Path) -> Target:
    """Its template is made below `folder`; trials may change the code in their copies."""
    template = folder / "template"
    shutil.copytree(HERE / "pipeline", template / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (template / "source").write_text("the source of all this\n")
    return Target(
        command=(sys.executable, "{work}/pipeline/build.py"),
        template=template,
        environment={
            "PYTHONPATH": os.pathsep.join((str(HERE.parents[1]), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep),
            "PYTHONDONTWRITEBYTECODE": "1",  # a trial that counts system calls must not find fewer of them
        },
    )
