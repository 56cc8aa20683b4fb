"""Quantization methods by name: each is a file beside this one with `BITS`, `BLOCK_SIZE` and `quantize`."""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from types import ModuleType

from qeffbuild.errors import SpecError


def names() -> tuple[str, ...]:
    """Every method that can be named, sorted."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py")))  # __init__ is no method


def find(method: str) -> ModuleType:
    """The module of one method. Importing it is cheap: numpy waits for the first tensor."""
    if method in names():
        return import_module(f"{__name__}.{method}")
    close = difflib.get_close_matches(method, names(), n=1)
    hint = f"did you mean quantization={close[0]}?" if close else f"methods here: none, {', '.join(names())}"
    raise SpecError("spec.choice", f"quantization.method: no method is called {method!r}", hint=hint)


def bits_of(method: str) -> int:
    return find(method).BITS


def block_size_of(method: str) -> int:
    """Weights that share a scale when the spec does not say."""
    return find(method).BLOCK_SIZE
