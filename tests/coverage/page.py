"""Results of a run -> docs/architectures.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

TOLERANCE = 1e-4
HOLDS_TO = re.compile(r"hint: specialization\.ctx_len=(\d+)")
RUNS_OF = re.compile(r"runs of \d+")
NOT_TRIED = ("configuration", "model", "reference")
HEAD = """# Architectures

What became of each model type that the installed transformers lists as a causal language model. `make coverage` makes this
page: it gives every type a small random configuration (`model.scale=tiny` has the same), exports it through the real steps,
and runs it in ONNX Runtime beside eager PyTorch in float32: a whole prefill, rows of unlike length, chunks of five tokens,
and eight decoding steps for given tokens; and rows of 200 and 141 tokens in chunks of 77, beyond every window, block and chunk
of the small models (*long*; no figure where the model has no positions for them). A figure is the
largest difference of logits relative to their spread; below 1e-4, and with every greedy token equal, a type passes.

The mechanism is the recipe of [export](export.md) that reproduced PyTorch; *tokens kept* means that the text itself is
kept and all of it is computed again at each step, which is slow. AI100 says whether the graph takes the form that the
compiler for Cloud AI 100 reads; *runs of N* where it does with `specialization.prefill_seq_len` up to that, because states
that pass from token to token need a loop otherwise. *Built* says whether a checkpoint of the type in a folder went through the
command line as well: `qeffbuild build model.path=DIR`, gate included, `verify`, and `run`, whose greedy tokens were those that `generate`
of transformers makes of the folder; *model* where `generate` says something else than the model does, or cannot (RoBERTa's kin get
other positions from it), and the tokens were the model's; *to N* where the graph holds for texts of so many tokens.
"""


Results = Mapping[str, Mapping[str, Any]]


def written(results: Results, types: Iterable[str], built: Results) -> str:
    """The page; the same bytes for the same results. `types` are all that there are, `built` is by the command line."""
    ordered = [results[name] for name in sorted(results)]
    tried = [said for said in ordered if said["stage"] not in NOT_TRIED]
    passed = [said for said in tried if passes(said)]
    share = 100 * len(passed) / max(len(tried), 1)
    said = [
        HEAD,
        f"Of {len(ordered)} types, transformers itself makes and runs {len(tried)} from a small configuration;",
    ]
    said += [f"{len(passed)} of these pass: {share:.0f} %.", "", "## Pass"]
    said += _table(
        "type mechanism states prefill ragged chunked decode long AI100 built", (_row(said, built) for said in passed)
    )
    said += ["", "## Do not pass"]
    said += _table("type stage reason", ((s["model_type"], s["stage"], _reason(s)) for s in tried if not passes(s)))
    said += ["", "## Not to be made from a small configuration"]
    said += _table("type reason", ((s["model_type"], _reason(s)) for s in ordered if s["stage"] in NOT_TRIED))
    left = sorted(set(types) - set(results))
    if left:
        said += ["", "## Not run yet", *_table("type", ((name,) for name in left))]
    return "\n".join(said) + "\n"


def passes(said: Mapping[str, Any]) -> bool:
    return said["stage"] == "done" and said["tokens_equal"] and max(said["errors"].values()) < TOLERANCE


def _row(said: Mapping[str, Any], built: Results) -> tuple[str, ...]:
    kinds = ("prefill", "ragged", "chunked", "decode", "long")
    errors = (f"{said['errors'][kind]:.0e}" if kind in said["errors"] else "" for kind in kinds)
    return (
        said["model_type"],
        said["mechanism"],
        ", ".join(said["states"]),
        *errors,
        said["qaic"] if RUNS_OF.fullmatch(said["qaic"]) else "no" if said["qaic"] else "yes",
        built_cell(built.get(said["model_type"])),
    )


def built_cell(said: Mapping[str, Any] | None) -> str:
    if said is None:
        return ""
    if said["stage"] != "done":
        longest = HOLDS_TO.search(said["reason"])
        return f"to {longest[1]}" if longest else "no"
    return "model" if said["reason"] else "yes"


def _reason(said: Mapping[str, Any]) -> str:
    if said["stage"] == "done":
        return f"logits differ by {max(said['errors'].values()):.0e} of their spread"
    first = said["reason"].splitlines()[0] if said["reason"] else ""
    return first.removeprefix(f"{said['model_type']}: ").replace("|", "/").replace("<", "&lt;")[:320]


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> list[str]:
    names = head.split()
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return ["", "| " + " | ".join(names) + " |", "|" + "---|" * len(names), *lines] if lines else ["", "None."]
