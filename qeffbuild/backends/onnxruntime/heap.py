"""The C library's heap -> one that has grown ahead, in pages of 2 MB, for what is going to be allocated.

ONNX Runtime allocates the weights that it packs one by one. Each would be a mapping of its own, whose pages of 4 KB
Linux finds and clears one at a time: half of what loading costs. In the heap they lie side by side, and a page is 512
of those, unless the first ones show that Linux has none ready. Where the C library is another one than glibc, and in
threads that have a heap of their own, nothing changes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import thread_time

MAPS = Path("/proc/self/maps")
PAGE = 2 << 20
_TRIM, _AHEAD, _OWN_MAPPING = -1, -2, -3  # mallopt's names: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
_LARGEST = 32 << 20  # allocations of more are never the heap's
_MOST = (1 << 31) - 1  # bytes that mallopt can be told
_USUAL_AHEAD = 128 << 10
_IN_LARGE_PAGES = 14  # MADV_HUGEPAGE
_TRIED = 8  # pages that are touched first
_PATIENCE = 0.002  # seconds of a processor for a page: one lies ready and is cleared in less, or Linux has to make room


@contextmanager
def grown_ahead(size: int) -> Iterator[None]:
    """Allocations inside come from the heap, up to `size` bytes of them from large pages. What stays unused is given
    back, and was never more than addresses."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not MAPS.is_file():
        yield
        return
    _grow(libc, min(size, _MOST))
    try:
        yield
    finally:
        # What glibc comes to by itself, once it has seen allocations of this size come and go.
        libc.mallopt(_AHEAD, _USUAL_AHEAD)
        libc.mallopt(_TRIM, 2 * _LARGEST)


def _grow(libc: ctypes.CDLL, size: int) -> None:
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.restype, libc.free.argtypes = None, (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    start = _end()
    for option, value in ((_OWN_MAPPING, _LARGEST), (_TRIM, _MOST), (_AHEAD, size)):
        libc.mallopt(option, value)
    libc.free(libc.malloc(_LARGEST - PAGE))  # more than is mostly left of it
    first, last = -(-start // PAGE) * PAGE, _end() // PAGE * PAGE
    if first >= last:
        return
    tried = min(first + _TRIED * PAGE, last)
    libc.madvise(first, tried - first, _IN_LARGE_PAGES)
    began = thread_time()
    for address in range(first, tried, PAGE):
        ctypes.memset(address, 0, 1)
    if thread_time() - began < _PATIENCE * _TRIED:
        libc.madvise(tried, last - tried, _IN_LARGE_PAGES)


def _end() -> int:
    """Where the heap ends; 0 where there is none."""
    ends = [line.split("-")[1].split()[0] for line in MAPS.read_text().splitlines() if line.endswith("[heap]")]
    return max((int(end, 16) for end in ends), default=0)
