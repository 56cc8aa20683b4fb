"""A model -> a block in which it can be traced: tables by length, latents, and what its family's file replaces."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn

from qeffbuild.export.latent import EXPAND, expand_kv, expanding
from qeffbuild.export.rotary import chosen_tables

ROOM = "qeffbuild.architectures"


@contextlib.contextmanager
def adapted(model: nn.Module) -> Iterator[None]:
    """Inside the block the replacements stand; the modeling files are as before after it."""
    with contextlib.ExitStack() as block:
        block.enter_context(chosen_tables(model))
        for name in sorted({type(module).__module__ for module in model.modules()}):
            for place, replacement in _replaced(name).items():
                block.enter_context(_instead(sys.modules[name], place, replacement))
        for attention in expanding(model):
            block.enter_context(_instead(attention, EXPAND, expand_kv))
        yield


def _replaced(modeling: str) -> dict[str, Any]:
    """What is special about the family of a modeling file; families without a file have nothing special."""
    parts = modeling.split(".")
    if parts[:2] != ["transformers", "models"] or find_spec(f"{ROOM}.{parts[2]}") is None:
        return {}
    return dict(import_module(f"{ROOM}.{parts[2]}").REPLACED)


@contextlib.contextmanager
def _instead(owner: Any, place: str, replacement: Any) -> Iterator[None]:
    *owners, name = place.split(".")
    for one in owners:
        owner = getattr(owner, one)
    before = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, before)
