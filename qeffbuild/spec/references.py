"""Values with `${...}` -> values without. Only keys of the configuration and listed variables can be named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from qeffbuild.errors import SpecError
from qeffbuild.spec.text import nearest, shown

# What ${oc.env:NAME} may read: folders and job numbers. A variable that can hold a secret stays unreadable.
VARIABLES = frozenset(
    {
        "QEFFBUILD_CACHE",
        "QEFF_HOME",
        "XDG_CACHE_HOME",
        "HF_HOME",
        "HF_HUB_CACHE",
        "QNN_SDK_ROOT",
        "SLURM_JOB_ID",
        "SLURM_ARRAY_TASK_ID",
    }
)

_START = re.compile(r"(?<!\\)(?:\\\\)*\$\{")  # a backslash before it makes it plain text
_KEY = re.compile(r"\$\{\s*([\w.\[\]]+)\s*\}")
_VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:\s*(\w+)\s*(,[^${}]*)?\}")


def resolve_references(
    values: dict[str, Any], origins: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """The resolved values, and the environment variables that were read with what they said."""
    said = {key: text for key, text in _texts(values) if "${" in text}
    if not said:
        return values, {}
    environment: dict[str, str | None] = {}
    for key, text in said.items():
        environment |= variables(text, origins.get(key.partition("[")[0]))
    try:
        return OmegaConf.to_container(OmegaConf.create(values), resolve=True), environment  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise _explained(error, values, said, origins) from error


def variables(text: str, where: str | None) -> dict[str, str | None]:
    """The environment variables that `text` names; raise when it refers to anything but them and plain keys."""
    found: dict[str, str | None] = {}
    for start in _START.finditer(text):
        place = start.end() - len("${")
        if _KEY.match(text, place):
            continue
        match = _VARIABLE.match(text, place)
        if match is None:
            hint = "allowed: ${KEY}, and ${oc.env:NAME} of listed variables; \\${ is a literal ${"
            raise SpecError("spec.resolver", f"{shown(text[place:])} is not allowed", where=where, hint=hint)
        name, default = match.groups()
        if name not in VARIABLES:
            hint = f"listed variables: {', '.join(sorted(VARIABLES))}"
            what = f"the variable {shown(name)} may not be read from configuration"
            raise SpecError("spec.resolver", what, where=where, hint=hint)
        found[name] = os.environ.get(name)
        if found[name] is None and default is None:
            hint = f"set {name}, or give a default: ${{oc.env:{name},DEFAULT}}"
            raise SpecError("spec.resolver", f"the variable {name} is not set", where=where, hint=hint)
    return found


def _explained(
    error: OmegaConfBaseException, values: Mapping[str, Any], said: Mapping[str, str], origins: Mapping[str, str]
) -> SpecError:
    """OmegaConf's complaint about one reference, in one line of ours."""
    key = error.full_key or next(iter(said))
    where = origins.get(key.partition("[")[0])
    text = said.get(key, "")
    if "Recursive interpolation" in str(error) or "parent node" in str(error):
        what = f"{key}: {shown(text)} leads back to itself"
        return SpecError("spec.cycle", what, where=where, hint="write the value out in one of the places")
    named = _KEY.search(text)
    close = nearest(named[1], (name for name, _ in _texts(values))) if named else None
    what = "names no key" if isinstance(error, InterpolationKeyError) else "cannot be resolved"
    hint = f"did you mean ${{{close}}}?" if close else "allowed: ${KEY}, and ${oc.env:NAME} of listed variables"
    return SpecError("spec.resolver", f"{key}: {shown(text)} {what}", where=where, hint=hint)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in `value` with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _texts(item, f"{key}[{place}]")
