"""Memory that mirrors a weights file -> given back to the system; whoever looks again reads the file again."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

_MAPS = Path("/proc/self/maps")


def mapped_files() -> tuple[range, ...]:
    """The addresses at which this process has safetensors files mapped; none where the system does not say."""
    if not _MAPS.exists():
        return ()
    found = []
    for line in _MAPS.read_text("utf-8", errors="replace").splitlines():
        if line.endswith(".safetensors"):
            start, _, end = line.partition(" ")[0].partition("-")
            found.append(range(int(start, 16), int(end, 16)))
    return tuple(found)


def give_back(address: int, nbytes: int, mapped: Sequence[range]) -> None:
    """Whole pages only, and only where they are a file's: anywhere else what was written there would be lost."""
    page = mmap.PAGESIZE
    start, end = -(-address // page) * page, (address + nbytes) // page * page
    if start < end and any(start in each and end <= each.stop for each in mapped):
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
