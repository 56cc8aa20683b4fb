"""Where the compiler is on this machine; the standard library is enough to look."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from qeffbuild.backends.qaic.command import COMPILER_ENV
from qeffbuild.errors import AbsentError

_INSTALL = f"install the Cloud AI Apps SDK, or name it: backend.compiler=FILE or {COMPILER_ENV}; emit needs no SDK"


def find_compiler(path: Path, *, is_named: bool, environ: Mapping[str, str] = os.environ) -> Path:
    """The compiler that an option names, else the environment's, else where the SDK puts it (both are `path`)."""
    if not is_named and (said := environ.get(COMPILER_ENV)):
        path = Path(said)
    if not path.is_file():
        raise AbsentError("backend.absent", f"{path}: the compiler of Cloud AI 100 is not there", hint=_INSTALL)
    if not os.access(path, os.X_OK):
        raise AbsentError("backend.absent", f"{path}: is no program", hint=f"chmod +x {path}")
    return path
