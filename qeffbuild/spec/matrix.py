"""What goes with what: task x quantization x backend x decoding x devices -> what comes out, or why it is refused.

The table is matrix.json: the first row whose `when` fits decides. It validates specs, writes docs/matrix.md
(`python -m qeffbuild.spec.matrix`) and gives tests their combinations. A backend that the table does not know answers
for itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from qeffbuild.spec.types import BuildSpec

TABLE = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"

Gives = Literal["tokens", "embeddings", "labels", "transcripts", "documents"]


class Combination(NamedTuple):
    """One point of the matrix."""

    task: str
    quantization: str
    backend: str
    decoding: str
    devices: str

    @property
    def overrides(self) -> tuple[str, ...]:
        """The words that ask for it."""
        axes = _table()["axes"]
        said = (axes[axis][value] for axis, value in zip(self._fields, self, strict=True))
        return tuple(word for words in said for word in words.split())


class Passing(NamedTuple):
    """A graph pass that a spec asks for (docs/transforms.md), and for what."""

    name: str
    task: str
    backend: str

    @property
    def overrides(self) -> tuple[str, ...]:
        """The words that ask for it."""
        axes = _table()["axes"]
        named = _table()["passes"]["names"][self.name]
        besides = named.get("besides", {}).get(self.backend, "")
        said = (named["asked"], axes["task"][self.task], axes["backend"][self.backend], besides)
        return said[:1] + tuple(word for words in said[1:] for word in words.split())


class Verdict(NamedTuple):
    """What a combination gives: what `run` prints, or the compiler's documents. Else why not, and what helps."""

    gives: Gives | None = None
    refused: str = ""
    change: str = ""


def verdict(combination: Combination) -> Verdict | None:
    """None when the table does not know this backend."""
    for row in _table()["rows"]:
        if all(getattr(combination, axis) in _listed(value) for axis, value in row["when"].items()):
            return Verdict(gives=row.get("gives"), refused=row.get("refused", ""), change=row.get("change", ""))
    return None


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def combinations(gives: Gives | None = None) -> Iterator[Combination]:
    """Every combination of the table, or those that give one thing."""
    axes = _table()["axes"]
    for combination in map(Combination._make, product(*(axes[axis] for axis in Combination._fields))):
        found = verdict(combination)
        if found is not None and (gives is None or found.gives == gives):
            yield combination


def of_spec(spec: BuildSpec, task: str | None = None) -> Iterator[Combination]:
    """The combinations that a spec asks for: several when it quantizes or decodes in several ways at once.

    `task` is what the model turned out to do, where that is known.
    """
    asked, shapes = spec.quantization, spec.specialization
    quantizations = [asked.method] if asked.method != "none" or not asked.mxfp6_matmul else []
    quantizations += ["mxfp6"] if asked.mxfp6_matmul else []
    decodings = ["greedy" if spec.decoding.temperature == 0 else "sampled"]
    decodings += ["speculative"] if shapes.num_speculative_tokens else []
    for quantization, decoding in product(quantizations, decodings):
        yield Combination(
            task=task or ("causal-lm" if spec.model.task == "auto" else spec.model.task),
            quantization=quantization,
            backend=_backend_of(spec),
            decoding=decoding,
            devices="one" if spec.device_group.size == 1 else "several",
        )


_ASKED: Mapping[str, Callable[[BuildSpec], bool]] = {
    "replicate_kv": lambda spec: spec.model.kv_head_replication > 1,
    "absorb_mla": lambda spec: spec.transforms.mla_absorption,
    "block_attention": lambda spec: spec.transforms.blocking_mode != "none",
    "lora": lambda spec: bool(spec.adapters),
    "fuse_projections": lambda spec: spec.transforms.fuse_projections,
    "speculative_heads": lambda spec: spec.transforms.speculative_heads is not None,
    "proxy": lambda spec: spec.transforms.proxy,
    "clip_float16": lambda spec: spec.transforms.clip_float16,
    "share_weights": lambda spec: spec.transforms.share_weights,
    "sampler": lambda spec: spec.transforms.include_sampler,
    "logits_to_keep": lambda spec: spec.specialization.logits_to_keep != 1,
    "float16": lambda spec: spec.model.dtype == "float16",
    "bfloat16": lambda spec: spec.model.dtype == "bfloat16",
}


def passes_of(spec: BuildSpec, task: str | None = None) -> Iterator[Passing]:
    """The passes that a spec asks for; `task` as in `of_spec`."""
    does = task or ("causal-lm" if spec.model.task == "auto" else spec.model.task)
    yield from (Passing(name, does, _backend_of(spec)) for name, is_asked in _ASKED.items() if is_asked(spec))


def passings() -> Iterator[Passing]:
    """Every pass for every task on every backend."""
    names, axes = _table()["passes"]["names"], _table()["axes"]
    return map(Passing._make, product(names, axes["task"], axes["backend"]))


def refusal(passing: Passing) -> Verdict | None:
    """Why a pass is refused, or None where it is carried out."""
    for row in _table()["passes"]["rows"]:
        if all(getattr(passing, axis) in _listed(value) for axis, value in row["when"].items()):
            return Verdict(refused=row["refused"], change=_table()["passes"]["names"][passing.name]["left"])
    return None


def _backend_of(spec: BuildSpec) -> str:
    """A backend with several targets has a table for each."""
    target = getattr(spec.backend.options, "target", None)
    return spec.backend.name if target is None else f"{spec.backend.name}-{target}"


def page() -> str:
    """docs/matrix.md."""
    axes = _table()["axes"]
    lines = [_OPENING]
    for backend, task in product(axes["backend"], axes["task"]):
        columns = list(product(axes["decoding"], axes["devices"]))
        lines += [f"\n## `{axes['backend'][backend]}`, {task}\n"]
        lines += ["| | " + " | ".join(f"{decoding}, {devices}" for decoding, devices in columns) + " |"]
        lines += ["|---" * (len(columns) + 1) + "|"]
        notes: dict[str, int] = {}
        for quantization in axes["quantization"]:
            row = [_cell(Combination(task, quantization, backend, how, many), notes) for how, many in columns]
            lines += [f"| `{axes['quantization'][quantization]}` | " + " | ".join(row) + " |"]
        lines += ["", *(f"{number}. {note}" for note, number in notes.items())]
    lines += _passes()
    lines += ["", "The words that ask for each:", ""]
    for axis in Combination._fields:
        lines += [f"* {axis}: " + ", ".join(f"{value} `{word}`" for value, word in axes[axis].items())]
    return "\n".join(lines) + "\n"


def _passes() -> list[str]:
    """The section about graph passes."""
    backends, notes = list(_table()["axes"]["backend"]), dict[str, int]()
    lines = ["\n## Graph passes\n", "What each does: [transforms](transforms.md).\n"]
    for task in _table()["axes"]["task"]:
        lines += [f"| {task} | " + " | ".join(backends) + " |", "|---" * (len(backends) + 1) + "|"]
        for name in _table()["passes"]["names"]:
            found = [refusal(Passing(name, task, backend)) for backend in backends]
            cells = ["yes" if no is None else f"({notes.setdefault(no.refused, len(notes) + 1)})" for no in found]
            lines += [f"| {name} | " + " | ".join(cells) + " |"]
        lines += [""]
    return [*lines, *(f"{number}. {note}" for note, number in notes.items())]


_OPENING = """# What goes with what

Written by `python -m qeffbuild.spec.matrix` from `qeffbuild/spec/matrix.json`, which also refuses, before anything
runs, what this page refuses. *Tokens*: `run` generates text; *embeddings*, *labels*, *transcripts*: `run` prints them.
*Documents*: `emit` writes the graph and all that the vendor's compiler reads, and its command line. A number stands for
a combination that is refused, for the reason below the table. What `model.task=auto` means, the model's files say."""


def _cell(combination: Combination, notes: dict[str, int]) -> str:
    found = verdict(combination)
    assert found is not None, "the table has a row for each backend that it names"
    if found.gives is not None:
        return found.gives
    note = f"{found.refused}: `{found.change}`"
    return f"({notes.setdefault(note, len(notes) + 1)})"


@lru_cache(maxsize=1)
def _table() -> Mapping[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
