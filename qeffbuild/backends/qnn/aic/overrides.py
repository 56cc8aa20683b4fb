"""A user's JSON file -> what it changes of the tools' arguments and settings; read before the first step runs."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qeffbuild.errors import BackendError

# What we write and nobody else may: a second one would quietly win, or quietly lose.
IMMUTABLE_CONVERTER = (
    *("--input_network", "--output_path", "--config", "--float_bias_bitwidth", "--float_bitwidth"),
    *("--preserve_io_datatype", "--onnx_skip_simplification"),
)
IMMUTABLE_GENERATOR = (
    *("--binary_file", "--backend_binary", "--output_dir", "--backend", "--model", "--dlc_path", "--config_file"),
)

CONVERTER_ARGUMENTS = "converter_args_extension"
GENERATOR_ARGUMENTS = "context_binary_generator_args_extension"
SETTINGS = "qnn_compilation_backend"
SKIP_CONVERTER = "SKIP_QNN_CONVERTER_STEP"
_KINDS: dict[str, tuple[type, str]] = {
    CONVERTER_ARGUMENTS: (str, "text"),
    GENERATOR_ARGUMENTS: (str, "text"),
    SETTINGS: (dict, "a mapping"),
    SKIP_CONVERTER: (bool, "true or false"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Further arguments of both tools, settings that replace ours, and whether the converter is left out."""

    converter: tuple[str, ...] = ()
    generator: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    skips_converter: bool = False


def read_overrides(path: Path | None) -> Overrides:
    if path is None:
        return Overrides()
    said = _read(path)
    for name, value in said.items():
        if name not in _KINDS:
            close = difflib.get_close_matches(name, _KINDS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(_KINDS)}"
            raise _refused(path, f"{name} is unknown", hint)
        kind, words = _KINDS[name]
        if type(value) is not kind:
            raise _refused(path, f"{name}: {json.dumps(value):.60} is not {words}", "see docs/qnn.md")
    return Overrides(
        converter=_arguments(path, CONVERTER_ARGUMENTS, said.get(CONVERTER_ARGUMENTS, ""), IMMUTABLE_CONVERTER),
        generator=_arguments(path, GENERATOR_ARGUMENTS, said.get(GENERATOR_ARGUMENTS, ""), IMMUTABLE_GENERATOR),
        settings=_settings(path, said.get(SETTINGS, {})),
        skips_converter=said.get(SKIP_CONVERTER, False),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        why = (cause.strerror or "unreadable").lower()
        raise BackendError("backend.file", f"backend.config: {path}: {why}", hint="is the path right?") from cause
    except ValueError as cause:
        raise BackendError("backend.file", f"backend.config: {path.name} is not JSON: {cause}") from cause
    if not isinstance(said, dict):
        raise BackendError("backend.file", f"backend.config: {path.name} holds no mapping", hint='{"KEY": VALUE}')
    return said


def _arguments(path: Path, name: str, text: str, immutable: tuple[str, ...]) -> tuple[str, ...]:
    if not text.isprintable():
        raise _refused(path, f"{name} has unprintable characters", "write one line")
    try:
        words = tuple(shlex.split(text))
    except ValueError as cause:
        raise _refused(path, f"{name}: {text!r}: {cause}", "close the quotation") from cause
    if repeated := [word for word in words if word.partition("=")[0] in immutable]:
        raise _refused(path, f"{name}: {repeated[0]} is written by us and may not be said again", "leave it out")
    return words


def _settings(path: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in settings.items():
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, list | dict) or item is None for item in items):
            raise _refused(path, f"{SETTINGS}.{name}: {json.dumps(value):.60} is not a value", "text, number, boolean")
    return settings


def _refused(path: Path, what: str, hint: str) -> BackendError:
    return BackendError("backend.option", f"backend.config: {path.name}: {what}", hint=hint)


def skipped_for_nothing() -> BackendError:
    return BackendError(
        "backend.file",
        "backend.config: SKIP_QNN_CONVERTER_STEP, but there is no DLC to go on with",
        hint="name it: backend.dlc_file=FILE",
    )
