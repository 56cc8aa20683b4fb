"""What a session allocates -> pages of 2 MB, in which weights are read a fifth faster: fewer addresses to look up.

Most of it is allocated in such pages (heap.py); what is not is moved into them. Linux alone is asked, and only asked:
where it has no such pages to give, or none without moving much about, the rest stays as it was. Moving weights takes as
long as some dozens of tokens, so it goes on beside the first of them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from time import thread_time

from qeffbuild.backends.onnxruntime.heap import MAPS, PAGE, grown_ahead

_STEP = 16 * PAGE
_PATIENCE = 0.006  # seconds of a processor for a page: moving one takes 0.5 ms, making room for one some ms more
_AFTER = 1.0  # seconds: what is still to be loaded comes first
_COLLAPSE = 25  # MADV_COLLAPSE, Linux 6.1: now, not when the kernel finds time

Regions = list[tuple[int, int]]


@contextmanager
def large_pages(size: int) -> Iterator[None]:
    """What is allocated inside, some `size` bytes, is in large pages, or on its way there as far as it fills them."""
    before = _anonymous()
    with grown_ahead(size):
        yield
    if before:
        moving = Timer(_AFTER, collapse, (list(_new(_anonymous(), before)),))
        moving.daemon = True
        moving.start()


def collapse(regions: Regions) -> None:
    """Memory that is given back meanwhile is no harm: this is advice, and what lies there keeps its content."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    began, pages = thread_time(), 0
    for start, end in regions:
        for first in range(-(-start // PAGE) * PAGE, end // PAGE * PAGE, _STEP):
            madvise(first, min(_STEP, end // PAGE * PAGE - first), _COLLAPSE)
            pages += _STEP // PAGE
            if thread_time() - began > _PATIENCE * pages:
                return


def _anonymous() -> Regions:
    """Memory that is no file's, in order of address."""
    if not MAPS.is_file():
        return []
    found = []
    for line in MAPS.read_text().splitlines():
        addresses, permissions, _, _, inode, *_ = line.split(maxsplit=5)
        if permissions == "rw-p" and inode == "0":
            start, _, end = addresses.partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def _new(now: Regions, before: Regions) -> Iterator[tuple[int, int]]:
    """The parts of `now` that were not there before."""
    for start, end in now:
        for old_start, old_end in before:
            if old_start >= end or old_end <= start:
                continue
            if old_start > start:
                yield start, old_start
            start = old_end
        if start < end:
            yield start, end
