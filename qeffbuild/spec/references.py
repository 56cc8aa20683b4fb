"""Values with `${...}` -> values without. Only keys of the configuration and listed variables can be named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, InterpolationKeyError, OmegaConfBaseException

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

_REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
_RESOLVER = re.compile(r"\$\{\s*([^${}:]*?)\s*:\s*([^,${}]*?)\s*[,}$]")
_KEY = re.compile(r"\$\{\s*([A-Za-z_][\w.]*)\s*\}")
_ENV = "oc.env"


def has_reference(value: Any) -> bool:
    """Whether any text in `value` holds an unescaped `${`."""
    if isinstance(value, str):
        return "${" in value and bool(_REFERENCE.search(value))
    if isinstance(value, Mapping):
        return any(map(has_reference, value.values()))
    return any(map(has_reference, value)) if isinstance(value, list) else False


def refuse_resolvers(text: str, where: str | None) -> None:
    """Raise unless each `${NAME:...}` in `text` is `${oc.env:VARIABLE}` with a listed variable."""
    for start in _REFERENCE.finditer(text):
        said = text[start.end() - 2 :]
        if ":" not in said.partition("}")[0].partition("${")[0] + said[2:].partition("}")[0].partition("${")[0]:
            continue
        match = _RESOLVER.match(said)
        if match is None or match[1] != _ENV:
            hint = "only ${KEY} and ${oc.env:NAME} of listed variables can be used"
            raise SpecError("spec.resolver", f"{shown(text)}: this resolver is not allowed", where=where, hint=hint)
        if match[2] not in VARIABLES:
            hint = f"listed variables: {', '.join(sorted(VARIABLES))}"
            raise SpecError(
                "spec.resolver", f"{shown(match[2])} may not be read from the environment", where=where, hint=hint
            )


def resolve_references(
    values: dict[str, Any], origins: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """The resolved values, and the environment variables that were read with what they said."""
    said = [(key, text) for key, text in _texts(values) if has_reference(text)]
    if not said:
        return values, {}
    environment: dict[str, str | None] = {}
    for key, text in said:
        where = _origin(key, origins)
        refuse_resolvers(text, where)
        for name, variable in _RESOLVER.findall(text):
            environment[variable] = os.environ.get(variable)
            if environment[variable] is None and not re.search(rf":\s*{variable}\s*,", text):
                hint = f"set {variable}, or give a default: ${{{name}:{variable},DEFAULT}}"
                raise SpecError("spec.resolver", f"{key}: the variable {variable} is not set", where=where, hint=hint)
    _refuse_cycles(dict(said), origins)
    config = OmegaConf.create(values)
    for key, text in said:
        _resolve_one(config, key, text, values, origins)
    resolved = OmegaConf.to_container(config, resolve=True)
    return resolved, environment  # type: ignore[return-value]


def _resolve_one(config: Any, key: str, text: str, values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    where = _origin(key, origins)
    try:
        OmegaConf.select(config, key, throw_on_missing=False)
        OmegaConf.to_container(OmegaConf.create({"value": text}, parent=config), resolve=False)
    except GrammarParseError as error:
        raise SpecError(
            "spec.syntax", f"{key}: {shown(text)} cannot be read", where=where, hint="write ${KEY}"
        ) from error
    except InterpolationKeyError as error:
        named = _KEY.search(text)
        close = nearest(named[1], (name for name, _ in _texts(values))) if named else None
        hint = f"did you mean ${{{close}}}?" if close else "write \\${ for a literal ${"
        raise SpecError("spec.resolver", f"{key}: {shown(text)} names no key", where=where, hint=hint) from error
    except (OmegaConfBaseException, RecursionError) as error:
        raise SpecError("spec.resolver", f"{key}: {shown(text)} cannot be resolved", where=where) from error


def _refuse_cycles(said: Mapping[str, str], origins: Mapping[str, str]) -> None:
    """Raise when following ${KEY} leads back to where it began."""
    leads = {key: _KEY.findall(text) for key, text in said.items()}
    for start in leads:
        trail, todo = [start], list(leads[start])
        while todo:
            key = todo.pop()
            if key == start:
                round_trip = " -> ".join([*trail, start]) if trail[-1] != start else f"{start} -> {start}"
                where = _origin(start, origins)
                raise SpecError(
                    "spec.cycle", f"{round_trip}: the values wait for each other", where=where, hint="write one out"
                )
            if key in leads and key not in trail:
                trail.append(key)
                todo += leads[key]


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _texts(item, f"{key}[{place}]")


def _origin(key: str, origins: Mapping[str, str]) -> str | None:
    return origins.get(key) or origins.get(key.partition("[")[0])
