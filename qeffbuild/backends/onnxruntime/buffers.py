"""Retained states -> zeroed arrays for them, side by side in one piece of memory.

A token reads all that is filled of all states, so it matters how fast memory is found. numpy asks Linux for pages of
2 MB where an array has 4 MB or more: one state of a small model has less, all of them together have more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from qeffbuild.signature import Axis, State

_LINE = 64  # bytes that a processor fetches together: each state begins with some


def zeroed(states: Sequence[State], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    shapes = [shape_of(state.axes, sizes) for state in states]
    lengths = [math.prod(shape) * np.dtype(state.dtype).itemsize for state, shape in zip(states, shapes, strict=True)]
    places = [0, *accumulate(-(-length // _LINE) * _LINE for length in lengths)]
    whole = np.zeros(places[-1], np.uint8)
    return {
        state.name: whole[start : start + length].view(state.dtype).reshape(shape)
        for state, shape, start, length in zip(states, shapes, places, lengths, strict=False)
    }


def shape_of(axes: tuple[Axis, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes)
