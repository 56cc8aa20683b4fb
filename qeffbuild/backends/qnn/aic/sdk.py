"""Where the QNN SDK is on this machine, and whether it has all that a compile needs; nothing is run to look."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qeffbuild.errors import AbsentError

SDK_ENV = "QNN_SDK_ROOT"
DEFAULT_SDK = "/opt/qcom/aistack/qairt"
HOST = "x86_64-linux-clang"

CONVERTER = f"bin/{HOST}/qairt-converter"
GENERATOR = f"bin/{HOST}/qnn-context-binary-generator"
BACKEND = f"lib/{HOST}/libQnnAic.so"
EXTENSIONS = f"lib/{HOST}/libQnnAicNetRunExtensions.so"

_INSTALL = f"install the QNN SDK, or name it: backend.sdk=FOLDER or {SDK_ENV}; emit needs no SDK"


@dataclass(frozen=True, slots=True)
class Sdk:
    """An SDK that is whole. `version` is what it says of itself, where it does."""

    root: Path
    version: str | None


def sdk_root(named: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The option, else the variable, else the usual place."""
    return (named or environ.get(SDK_ENV) or DEFAULT_SDK).rstrip("/")


def find_sdk(named: str | None, environ: Mapping[str, str] = os.environ) -> Sdk:
    root = Path(sdk_root(named, environ))
    if not root.is_dir():
        raise AbsentError("backend.absent", f"{root}: the QNN SDK is not there", hint=_INSTALL)
    if missing := [name for name in (CONVERTER, GENERATOR, BACKEND, EXTENSIONS) if not (root / name).is_file()]:
        raise AbsentError("backend.absent", f"{root}: of the QNN SDK {', '.join(missing)} is missing", hint=_INSTALL)
    for program in (CONVERTER, GENERATOR):
        if not os.access(root / program, os.X_OK):
            raise AbsentError("backend.absent", f"{root / program}: is no program", hint=f"chmod +x {root / program}")
    return Sdk(root, _version(root))


def _version(root: Path) -> str | None:
    """From sdk.yaml, else from the folder's name: SDKs are unpacked into folders named after them."""
    try:
        said = re.search(r"^version:\s*[\"']?v?([0-9][0-9.]*)", (root / "sdk.yaml").read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        said = None
    said = said or re.search(r"([0-9]+\.[0-9]+(?:\.[0-9]+)*)\Z", root.resolve().name)
    return said[1] if said else None
