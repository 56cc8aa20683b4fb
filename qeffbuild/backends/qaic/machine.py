"""What this machine knows that a build may ask for: files that options name, the SDK's version, the hardware's."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from qeffbuild.backends.qaic.options import PROBE, Options, check, version_of
from qeffbuild.errors import AbsentError, BackendError, LimitError, StepError
from qeffbuild.spec.types import BuildSpec

APPS = Path("/opt/qti-aic/versions/apps.xml")  # where the SDK says its version
UTILITY = Path("/opt/qti-aic/tools/qaic-util")
_PATIENCE_S = 30.0


def settle(spec: BuildSpec, *, apps: Path = APPS, utility: Path = UTILITY) -> BuildSpec:
    """The spec with `probe` replaced by what was found; raises where a file that an option names cannot be one."""
    options: Options = spec.backend.options
    check_files(options)
    found: dict[str, Any] = {}
    if options.sdk_version == PROBE:
        found["sdk_version"] = probe_sdk(apps)
    if options.aic_hw_version == PROBE:
        found["aic_hw_version"] = probe_hardware(utility)
    if not found:
        return spec
    settled = replace(spec, backend=replace(spec.backend, options=replace(options, **found)))
    check(settled)  # what was found may be what the request is too much for
    return settled


def check_files(options: Options) -> None:
    """Before anything runs: what is named is there, and partitions are partitions."""
    partitions = ("mdp_load_partition_config", "mdp_compiler_dump_path")
    for name in ("compiler", "node_precision_info", "templates", *partitions):
        said = getattr(options, name)
        if said is None:
            continue
        path = Path(said)
        if name == "templates" and not path.is_dir():
            raise BackendError("backend.file", f"backend.{name}: {said} is no folder", hint="is the path right?")
        if name == "compiler" and not path.is_file():
            raise AbsentError("backend.absent", f"backend.{name}: {said} is no file", hint="is the path right?")
        if name not in ("templates", "compiler") and not path.is_file():
            raise BackendError("backend.file", f"backend.{name}: {said} is no file", hint="is the path right?")
        if name in partitions:
            partition_nodes_of(path, name)


def partition_nodes_of(path: Path, option: str) -> list[str]:
    """Every node that the partitions in a file list; `option` names the file."""
    try:
        said = json.loads(path.read_text("utf-8"))
        return [str(node) for partition in said["partitions"] for node in partition.get("nodeList", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        found = f"backend.{option}: {path.name} is not a partition file: {cause!r}"
        hint = 'it is JSON: {"connections": [...], "partitions": [...]}'
        raise BackendError("backend.file", found, hint=hint) from cause


def probe_sdk(apps: Path = APPS) -> str:
    """The version of the installed SDK, as its own file says it."""
    try:
        said = re.search(r"<ci_build>\s*([0-9.]+)\s*</ci_build>", apps.read_text("utf-8", errors="replace"))
    except OSError as cause:
        hint = "say it: backend.sdk_version=1.20, or leave it out"
        raise AbsentError(
            "backend.absent", f"backend.sdk_version: no SDK is here to ask ({apps})", hint=hint
        ) from cause
    if said is None:
        raise BackendError("backend.file", f"backend.sdk_version: {apps} says no version", hint="say it yourself")
    version_of(said[1])
    return said[1]


def probe_hardware(utility: Path = UTILITY) -> str:
    """ai200 where the first card's firmware is one of AIC200, else ai100."""
    if not utility.is_file():
        hint = "say it: backend.aic_hw_version=ai100 or ai200"
        raise AbsentError("backend.absent", f"backend.aic_hw_version: {utility} is not here to ask", hint=hint)
    try:
        done = subprocess.run([str(utility), "-q"], capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired as cause:
        raise LimitError(
            "limit.time", f"{utility} -q: no answer in {_PATIENCE_S:g} s", hint="say it yourself"
        ) from cause
    except OSError as cause:
        raise AbsentError("backend.absent", f"{utility}: {cause.strerror}", hint="say the version yourself") from cause
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        last = said[-1] if said else "it said nothing"
        raise StepError("step.command", f"{utility} -q exited with {done.returncode}: {last}", hint="say it yourself")
    variants = [line for line in done.stdout.splitlines() if "FW IMAGE_VARIANT" in line]
    return "ai200" if any("AIC200" in line for line in variants) else "ai100"
