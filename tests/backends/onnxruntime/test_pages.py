"""What is allocated while a session loads goes into large pages, and keeps its content."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from qeffbuild.backends.onnxruntime.pages import _new, collapse, large_pages

SIZE = 16 << 20
PAGE = 2 << 20


def in_large_pages(start: int) -> int:
    """How many bytes of the mapping that holds this address lie in large pages."""
    found, lines = 0, Path("/proc/self/smaps").read_text().splitlines()
    inside = False
    for line in lines:
        head = line.split(maxsplit=1)[0]
        if "-" in head and not head.endswith(":"):
            first, _, last = head.partition("-")
            inside = int(first, 16) <= start < int(last, 16)
        if inside and line.startswith("AnonHugePages:"):
            found = int(line.split()[1]) << 10
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="Linux alone has large pages to ask for")
def test_what_is_allocated_inside_keeps_its_content_in_larger_pages() -> None:
    with large_pages(SIZE):
        memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        array = np.frombuffer(memory, np.uint32)
        array[:] = np.arange(array.size)
        address = array.ctypes.data + PAGE
    collapse([(array.ctypes.data, array.ctypes.data + SIZE)])  # what goes on beside us is not to be waited for
    np.testing.assert_array_equal(array, np.arange(array.size))
    assert in_large_pages(address) % PAGE == 0


def test_only_what_was_not_there_before_is_new() -> None:
    before = [(10, 20), (40, 50)]

    assert list(_new([(0, 30), (40, 50), (60, 70)], before)) == [(0, 10), (20, 30), (60, 70)]
    assert list(_new([(5, 60)], before)) == [(5, 10), (20, 40), (50, 60)]
