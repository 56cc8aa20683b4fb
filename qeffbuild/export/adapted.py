"""A model -> a block in which it can be traced: tables by length, latents, and what its family's file replaces.

In it, the lesser of two sizes is a size, too: how many blocks are chosen where there are fewer than wanted. Python's
own `min` asks which of them is the lesser, and a trace would go on with the answer for its own text.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from qeffbuild.export.latent import EXPAND, expand_kv, expanding
from qeffbuild.export.rotary import chosen_tables

ROOM = "qeffbuild.architectures"
_ABSENT = object()


@contextlib.contextmanager
def adapted(model: nn.Module) -> Iterator[None]:
    """Inside the block the replacements stand; the modeling files are as before after it."""
    with contextlib.ExitStack() as block:
        block.enter_context(chosen_tables(model))
        for name in sorted({type(module).__module__ for module in model.modules()}):
            for place, replacement in {**_OF_SIZES, **_replaced(name)}.items():
                block.enter_context(_instead(sys.modules[name], place, replacement))
        for attention in expanding(model):
            block.enter_context(_instead(attention, EXPAND, expand_kv))
        yield


def _of_sizes(plain: Callable[..., Any], symbolic: Callable[..., Any]) -> Callable[..., Any]:
    def chosen(*given: Any, **more: Any) -> Any:
        is_symbolic = len(given) == 2 and any(isinstance(one, torch.SymInt) for one in given)
        return symbolic(*given) if is_symbolic else plain(*given, **more)

    return chosen


_OF_SIZES = {"min": _of_sizes(min, torch.sym_min), "max": _of_sizes(max, torch.sym_max)}


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
    before = getattr(owner, name, _ABSENT)  # what is built in is in no module
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if before is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
