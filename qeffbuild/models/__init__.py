"""A model folder or hub id -> facts, without torch; a small random model of any type, and the demo model itself."""

from __future__ import annotations

from pathlib import Path

from qeffbuild.models.facts import Facts, read_facts
from qeffbuild.models.files import listing
from qeffbuild.models.fit import fit
from qeffbuild.models.hub import locate, pin
from qeffbuild.models.tokenizer import load_tokenizer, save_tokenizer
from qeffbuild.models.weights import Tensor

DEMO = Path(__file__).parent / "demo"

__all__ = [
    "DEMO",
    "Facts",
    "Tensor",
    "checkpoint",
    "fit",
    "listing",
    "load_tokenizer",
    "locate",
    "pin",
    "read_facts",
    "save_tokenizer",
]


def checkpoint(fetched: Path, leaf: Path | None) -> Path:
    """The model folder that facts.json speaks of: one that `fetch` wrote (tiny, or from pickles), else the leaf."""
    own = fetched / "model"
    if own.is_dir() or leaf is None:
        return own
    return leaf
