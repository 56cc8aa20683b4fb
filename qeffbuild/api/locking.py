"""`qeffbuild.lock`: what builds were made of and what they gave, checked in, so that a later build can be held to it.

One entry for each command line. Inputs are compared before anything runs, outputs before anything is handed out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from qeffbuild.api.built import Built
from qeffbuild.errors import SpecError, VerificationError
from qeffbuild.package import PROVENANCE, Package
from qeffbuild.plan import Plan
from qeffbuild.plan.keys import Key
from qeffbuild.spec.choices import GAP, REMEMBERED, words
from qeffbuild.spec.types import BuildSpec
from qeffbuild.store import Entry
from qeffbuild.store.collect import pin

NAME = "qeffbuild.lock"
SCHEMA = 1

# Overrides that say where and how something is built, not what.
_ELSEWHERE = ("launch.", "launch=", "cache.", "cache=", "out=", "hydra.")


@dataclass(frozen=True, slots=True)
class Lock:
    """What a build is held to: `inputs` and `outputs` as names with what they were. No inputs: any will do.

    `source` has written them down; `hint` says what to do when they differ.
    """

    source: str
    hint: str
    inputs: Mapping[str, str] | None
    outputs: Mapping[str, str]

    def check_inputs(self, spec: BuildSpec, plan: Plan, keys: Mapping[str, Key]) -> None:
        if self.inputs is not None:
            self._compare(self.inputs, inputs_of(spec, plan, keys))

    def check_outputs(self, entry: Entry) -> None:
        self._compare(self.outputs, outputs_of(entry))

    def _compare(self, written: Mapping[str, str], found: Mapping[str, str]) -> None:
        """Raises VerificationError on the first name that is not as it was written down."""
        for name in sorted({*written, *found}):
            was, now = written.get(name), found.get(name)
            if was != now:
                raise VerificationError(
                    "lock.differs",
                    f"{name}: {_shown(now)}, but {self.source} says {_shown(was)}",
                    hint=self.hint,
                )


def name_of(overrides: Sequence[str]) -> str:
    """The words that choose what is built: two command lines that differ only in where share an entry."""
    return " ".join(sorted(word for word in overrides if not word.lstrip("+~").startswith(_ELSEWHERE)))


def inputs_of(spec: BuildSpec, plan: Plan, keys: Mapping[str, Key]) -> dict[str, str]:
    """The plan's digest, the model's revision, and every leaf, tool and variable in the keys of its steps."""
    found = {"plan": sha256(plan.canonical().encode()).hexdigest()}
    if spec.model.path is None and spec.model.revision is not None and spec.model.scale != "tiny":
        found["model.revision"] = spec.model.revision
    for step in plan:
        said = keys[step.name].preimage
        for kind, prefix in (("leaves", ""), ("tools", "tool "), ("env", "variable ")):
            found |= {f"{prefix}{name}": str(value) for name, value in said[kind].items()}
    return found


def outputs_of(entry: Entry) -> dict[str, str]:
    return {name: file.sha256 for name, file in entry.record.files.items()}


def write_lock(folder: Path, overrides: Sequence[str], built: Built) -> Path:
    """The entry of these words in the folder's lock file, anew; the other entries stay.

    What was built becomes a root of the cache, which `cache gc --keep-roots` leaves alone.
    """
    file = folder / NAME
    builds = _read(file)["builds"] if file.exists() else {}
    keys = {outcome.step.name: outcome.key for outcome in built.outcomes}
    builds[name_of(overrides)] = {
        "inputs": inputs_of(built.spec, built.plan, keys),
        "outputs": outputs_of(built.goal),
    }
    fresh = file.with_name(f".{NAME}.{os.getpid()}")
    fresh.write_text(json.dumps({"schema": SCHEMA, "builds": builds}, indent=1, sort_keys=True) + "\n")
    fresh.replace(file)
    pin(built.store, sha256(f"{file.absolute()} {name_of(overrides)}".encode()).hexdigest(), built.goal.record.key)
    return file


def read_lock(folder: Path, overrides: Sequence[str]) -> Lock:
    """Raises SpecError where these words were never locked."""
    name, file = name_of(overrides), folder / NAME
    builds = _read(file)["builds"] if file.exists() else {}
    if name not in builds:
        raise SpecError(
            "lock.absent", f"{name or 'these words'}: not in {NAME}", where=str(file), hint=f"qeffbuild lock {name}"
        )
    said = builds[name]
    if not isinstance(said, dict) or not all(_is_table(said.get(part)) for part in ("inputs", "outputs")):
        raise _unreadable(file, f"{name}: no inputs and outputs")
    hint = f"restore what it was built with, or accept the change: qeffbuild lock {name}"
    return Lock(NAME, hint, said["inputs"], said["outputs"])


def words_of(package: Path, overrides: Sequence[str]) -> tuple[str, ...]:
    """The words that build the package in this folder again; a group that `overrides` choose anew is left out."""
    anew = {word.partition("=")[0] for word in overrides}
    said = Package.open(package, verify=True).choices
    again = words({key: value for key, value in said.items() if key.partition(".")[0] not in anew or key == "backend"})
    return (*(word for word in again if word.partition("=")[0] not in anew), *overrides)


def held_to(package: Path, overrides: Sequence[str]) -> Lock | None:
    """The bytes of a package that is built again; None where `overrides` ask for another one."""
    found = Package.open(package)
    gaps = [key for key, value in found.choices.items() if value == GAP]
    keys = [word.lstrip("+~").partition("=")[0] for word in overrides]
    if any(key.partition(".")[0] in REMEMBERED and key not in gaps for key in keys):
        return None
    hint = f"other tools or another model than then? compare {PROVENANCE} in both"
    return Lock(str(package), hint, None, found.digests)


def _read(file: Path) -> dict[str, Any]:
    try:
        said = json.loads(file.read_bytes())
    except ValueError as cause:
        raise _unreadable(file, f"not JSON: {cause}") from cause
    if not isinstance(said, dict) or said.get("schema") != SCHEMA or not isinstance(said.get("builds"), dict):
        raise _unreadable(file, f"not of schema {SCHEMA}")
    return said


def _unreadable(file: Path, problem: str) -> SpecError:
    return SpecError(
        "lock.unreadable", problem, where=str(file), hint="restore it from version control, or delete it and lock again"
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _shown(value: str | None) -> str:
    return "absent" if value is None else value[:12] if len(value) == 64 else value
