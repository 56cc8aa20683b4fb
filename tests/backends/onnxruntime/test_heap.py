"""The heap grows before it is needed, and what is allocated then comes from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A process of its own: how the C library allocates is the same for everybody in one.
ALLOCATING = """
import numpy as np
from qeffbuild.backends.onnxruntime.heap import _end, grown_ahead

def is_in_heap(array):
    return array.ctypes.data < _end()

before = np.ones(SIZE, np.uint8)
with grown_ahead(4 * SIZE):
    end = _end()
    inside = [np.full(SIZE, number, np.uint8) for number in range(3)]
    grew = _end() != end
print(is_in_heap(before), [is_in_heap(array) for array in inside], grew, [int(array.sum()) for array in inside])
""".replace("SIZE", str(8 << 20))


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="Linux alone says where its heap is")
def test_what_is_allocated_inside_lies_in_a_heap_that_needs_not_grow_for_it() -> None:
    said = subprocess.run([sys.executable, "-c", ALLOCATING], capture_output=True, text=True, check=True)

    size = 8 << 20
    assert said.stdout.strip() == f"False [True, True, True] False [0, {size}, {2 * size}]"
