"""A command line or a qconfig.json of QEfficient -> the text of a recipe, and what it could not carry over."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qeffbuild.compat.flags import MODULES, flags_of, spelled
from qeffbuild.compat.qconfig import read_qconfig
from qeffbuild.compat.translate import Translation, translate
from qeffbuild.compat.words import read_words
from qeffbuild.errors import SpecError
from qeffbuild.spec.text import escaped, nearest, quoted

_MODULE = re.compile(r"(?:.*[./])?cloud[./](\w+?)(?:\.py)?")
_SECRET = frozenset({"hf_token"})
# Said, but by the machine that a build runs on, never by the recipe of one.
_ENVIRONMENT = {"cache_dir": "HF_HUB_CACHE=DIR in the environment", "hf_token": "HF_TOKEN in the environment"}
_PLACES = {
    "onnx_path": "a build exports its graph itself",
    "qpc_path": "out=DIR copies a package there",
    "custom_io_file_path": "it is written for the graph; backend.templates=DIR has a template of your own",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """`text` is a file for conf/recipe/; `overrides` say the same on a command line."""

    text: str
    overrides: tuple[str, ...]
    notes: tuple[str, ...]


def import_words(words: Sequence[str]) -> Recipe:
    """`words`: a whole command line as it was typed, or the path of a qconfig.json."""
    if len(words) == 1 and words[0].endswith(".json"):
        said, others = read_qconfig(Path(words[0]))
        return _recipe(translate(said, others), words[0])
    module, rest = _command(words)
    read = read_words(module, rest)
    made = translate(read.values, read.others)
    for name, instead in (_ENVIRONMENT | _PLACES).items():
        if name in read.values:
            made.notes.append(f"{name}: left out: {instead}")
    made.notes += [f"{word}: left out: QEfficient passes it over too" for word in read.stray]
    if any("=" in word for word in read.overrides):
        made.notes += [
            f"{word}: left out: it is a word of ours, write it behind recipe=NAME" for word in read.overrides
        ]
    return _recipe(made, shlex.join(_without_secrets(module, words)))


def _command(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The module of a command line such as `python -m QEfficient.cloud.infer ...`, and the words behind it."""
    for place, word in enumerate(words[:8]):
        if found := _MODULE.fullmatch(word):
            if found[1] not in MODULES:
                near = nearest(found[1], MODULES)
                hint = f"did you mean {near}?" if near else f"there are: {', '.join(MODULES)}"
                raise SpecError("verb.operand", f"import {word}: no such command line is known", hint=hint)
            return found[1], words[place + 1 :]
    raise SpecError(
        "verb.operand",
        f"import {words[0]}: neither a command line of QEfficient.cloud nor a qconfig.json",
        hint="qeffbuild import -- python -m QEfficient.cloud.infer --model_name gpt2 --num_cores 16",
    )


def _without_secrets(module: str, words: Sequence[str]) -> list[str]:
    known = flags_of(module)
    shown: list[str] = []
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        flag = known.get(spelled(name)) if name.startswith("-") else None
        before = known.get(spelled(words[place - 1])) if place else None
        if flag is not None and flag.name in _SECRET and equals:
            shown.append(f"{name}=...")
        elif before is not None and before.name in _SECRET and words[place - 1].startswith("-"):
            shown.append("...")
        else:
            shown.append(word)
    return shown


def _recipe(made: Translation, source: str) -> Recipe:
    lines = [
        "# @package _global_",
        *_comment(f"From: {source}"),
        *(part for note in made.notes for part in _comment(note)),
    ]
    lines.append("defaults:")
    lines += [f"  - override /{group}: {choice}" for group, choice in made.choices.items()]
    lines.append("  - _self_")
    groups: dict[str, dict[str, Any]] = {}
    for key, value in made.values.items():
        group, _, name = key.rpartition(".")
        groups.setdefault(group, {})[name] = value
    for group, values in sorted(groups.items(), key=lambda item: item[0] == ""):
        lines.append("")
        indent = "  " if group else ""
        lines += [f"{group}:"] if group else []
        lines += [f"{indent}{name}: {_yaml(value)}" for name, value in values.items()]
    return Recipe("\n".join(lines) + "\n", made.overrides(), tuple(made.notes))


def _comment(text: str) -> list[str]:
    """One line each, whatever was typed; long ones are folded."""
    import textwrap

    one = " ".join(text.split())
    safe = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in one)
    return textwrap.wrap(safe, 110, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def _yaml(value: Any) -> str:
    """A value in YAML: JSON is YAML, and quotes keep text text."""
    import json

    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return json.dumps(escaped(value), ensure_ascii=False) if isinstance(value, str) else quoted(value)
