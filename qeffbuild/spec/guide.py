"""The keys and choices of a build -> the second half of docs/configuration.md (`python -m qeffbuild.spec.guide`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from qeffbuild import paths
from qeffbuild.spec.keys import GROUPS, Key, keys_of, root_keys

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
MARK = "<!-- Below this line the page is written by `python -m qeffbuild.spec.guide`. -->\n"

_TITLES: Mapping[str, str] = {
    "model": "where the weights come from",
    "quantization": "how weights are stored",
    "specialization": "the static shapes of a build",
    "device_group": "which devices, and how a model is spread over them",
    "transforms": "what is changed in the graph between export and the backend",
    "gate": "how near each graph has to be to PyTorch",
    "decoding": "how tokens are chosen; read when a package runs, never part of a build's key",
    "launch": "where and how steps run",
    "cache": "where finished steps are kept",
}


def page(opening: str) -> str:
    """The whole page: the hand-written `opening`, then every key."""
    return opening.partition(MARK)[0] + MARK + "\n" + "\n".join(_sections()) + "\n"


def _sections() -> Iterator[str]:
    for group, cls in GROUPS.items():
        yield f"## `{group}`: {_TITLES[group]}\n"
        yield _choices(group)
        yield from _table(f"{group}.", keys_of(cls))
    yield "## `backend`: who runs the graph\n"
    yield _choices("backend")
    for file in sorted((paths.HERE / "backends").glob("*/options.py")):
        name = file.parent.name
        yield f"### `backend={name}`\n"
        yield from _table("backend.", keys_of(import_module(f"qeffbuild.backends.{name}.options").Options))
    yield "## `adapters`: names of LoRA adapters and their folders\n"
    yield _choices("adapters")
    yield "## `recipe`: a checked-in build\n"
    yield _choices("recipe")
    yield "## Keys that belong to no group\n"
    yield from _table("", root_keys())


def _choices(group: str) -> str:
    names = sorted(file.stem for file in (paths.resource_dir("conf") / group).glob("*.yaml"))
    return f"Choices: {', '.join(f'`{group}={name}`' for name in names)}.\n"


def _table(prefix: str, keys: Mapping[str, Key]) -> Iterator[str]:
    yield "| key | holds | default | meaning |"
    yield "|---|---|---|---|"
    for key in keys.values():
        holds = f"{key.holds}, {key.bounds}" if key.bounds else key.holds
        meaning = key.doc.replace("|", "\\|")
        yield f"| `{prefix}{key.name}` | {holds} | `{_shown(key.default)}` | {meaning} |"
    yield ""


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "{}" if value == {} else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
