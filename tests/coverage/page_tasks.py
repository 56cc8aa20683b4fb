"""Results of a run over the other tasks -> docs/task_architectures.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from page import TOLERANCE

NOT_TRIED = ("configuration", "model", "reference")
HEAD = """# Architectures of the other tasks

What became of the model types that the installed transformers has for each [task](tasks.md) but going on with a text
([those](architectures.md)). `python tests/coverage/run_tasks.py --page docs/task_architectures.md` makes this page: it
gives a type a small random model, exports it through the real steps and runs the graphs in ONNX Runtime beside eager
PyTorch in float32: rows of 1 to 45 tokens (which is beyond the windows and blocks of the small models) alone and
together, padded; sounds of several lengths one by one; an encoder-decoder's answer of eight given tokens in chunks and
one by one. A figure is the largest difference of results relative to their spread; below 1e-4, and with every greedy
token equal, a type passes. Of those that embed, each type was asked for one way of pooling.

"With a cache": what layers carry from token to token stays inside of the graph. "Alone": padding would change what
comes of a text, so that texts go one by one. Rows that PyTorch itself refuses (a text of one token) are left out.
"""

Said = Mapping[str, Any]


def written(results: Iterable[Said], entries: Iterable[tuple[str, str]]) -> str:
    """The page; the same bytes for the same results. `entries` are all tasks and types that there are."""
    last = {(said["task"], said["model_type"]): said for said in results}
    page = [HEAD.rstrip()]
    for task, group in groupby(entries, key=lambda entry: entry[0]):
        types = sorted(model_type for _, model_type in group)
        page += ["", *_section(task, [last.get((task, model_type)) for model_type in types], types)]
    return "\n".join(page) + "\n"


def passes(said: Said) -> bool:
    return said["stage"] == "done" and said["tokens_equal"] and max(said["errors"].values()) < TOLERANCE


def _section(task: str, found: list[Said | None], types: list[str]) -> list[str]:
    run = [said for said in found if said is not None]
    tried = [said for said in run if said["stage"] not in NOT_TRIED]
    passed = [said for said in tried if passes(said)]
    kinds = list(dict.fromkeys(kind for said in passed for kind in said["errors"]))
    lines = [f"## {task}", "", f"{len(passed)} of {len(tried)} types that transformers makes and runs pass."]
    lines += _table(("type", "mechanism", *kinds), (_row(said, kinds) for said in passed))
    lines += _table(("does not pass", "reason"), ((s["model_type"], _reason(s)) for s in tried if not passes(s)))
    lines += _table(
        ("not run: transformers does not, or not when made small", "reason"),
        ((s["model_type"], _reason(s)) for s in run if s["stage"] in NOT_TRIED),
    )
    left = [model_type for model_type, said in zip(types, found, strict=True) if said is None]
    return lines + (["", f"Not run yet: {', '.join(left)}."] if left else [])


def _row(said: Said, kinds: Iterable[str]) -> tuple[str, ...]:
    mechanism = ", ".join(filter(None, (said["mechanism"], said.get("pooling"))))
    errors = said["errors"]
    return (said["model_type"], mechanism, *(f"{errors[kind]:.0e}" if kind in errors else "" for kind in kinds))


def _reason(said: Said) -> str:
    if said["stage"] == "done":
        return f"results differ by {max(said['errors'].values()):.0e} of their spread"
    first = said["reason"].splitlines()[0] if said["reason"] else ""
    return first.removeprefix(f"{said['model_type']}: ").replace("|", "/").replace("<", "&lt;")[:240]


def _table(names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return ["", "| " + " | ".join(names) + " |", "|" + "---|" * len(names), *lines] if lines else []
