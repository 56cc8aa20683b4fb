"""A package and prompts -> its answers on stdout, latency figures on stderr; nothing is built."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError, RunError
from qeffbuild.package import MANIFEST
from qeffbuild.report import text
from qeffbuild.report.table import Look
from qeffbuild.spec.types import DecodingSpec


def run_package(said: Mapping[str, Any]) -> int:
    path = Path(said["qpc_path"])
    if not (path / MANIFEST).is_file():
        hint = "a package is what `qeffbuild build` prints; a program of QEfficient's runs with its own tools"
        raise ModelError("model.absent", f"--qpc-path: {path} is no package of ours: it has no {MANIFEST}", hint=hint)
    prompts = _prompts(said)
    from qeffbuild.runtime.engine import Engine
    from qeffbuild.runtime.transcript import transcript

    engine = Engine.open(path, devices=said.get("device_group") or ())
    stream = engine.stream(prompts, DecodingSpec(max_new_tokens=said.get("generation_len")))
    for piece in transcript(stream, len(prompts)):
        print(piece, end="", flush=True)
    print(f"\n{text.metrics(stream.result().as_json()['metrics'], Look.of(sys.stderr))}", file=sys.stderr)
    return 0


def _prompts(said: Mapping[str, Any]) -> tuple[str, ...]:
    from qeffbuild.runtime.prompts import read_prompts

    if file := said.get("prompts_txt_file_path"):
        return read_prompts(Path(file))
    if not (prompts := tuple(said.get("prompt") or ())):
        raise RunError("run.prompt", "no prompt is given", hint='--prompt "My name is|Once upon"')
    return prompts
