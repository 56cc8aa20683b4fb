"""How every export runs: on one thread, without looking for garbage, and telling who asks how far it is."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch

Progress = Callable[[float, str], None]  # the fraction that is done, and what is being done


def silent(fraction: float, what: str) -> None:
    """Progress that nobody watches."""


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """One thread, and no garbage is looked for: an export leaves little, and a collector would walk all layers."""
    threads, was_collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.disable()
    gc.freeze()  # for torch, which collects by itself: what was imported is no garbage either
    try:
        yield
    finally:
        gc.freeze()  # what is left counts as old, so that it is not walked through at once
        gc.unfreeze()
        if was_collecting:
            gc.enable()
        torch.set_num_threads(threads)
