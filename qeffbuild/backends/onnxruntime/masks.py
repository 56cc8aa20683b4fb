"""A mask of the neutral graph -> the words that GroupQueryAttention has for it, found out by trying positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.probe import Ancestry, evaluate

# The longest context that is tried: a window that shows only beyond it would count as none.
_SLOTS = 1 << 17
_POSITIONS = (0, 1, 2, 7, 8, 9, 100, 127, 128, 511, 513, 1024, 2047, 4095, 4096, 8193, 16384, 32769, 65537, _SLOTS - 1)


@dataclass(frozen=True, slots=True)
class Causal:
    """Each token sees itself and those before it: all of them (window -1), or itself and the last window - 1."""

    window: int


def recognise(mask: ir.Value, ancestry: Ancestry, opset: int) -> Causal | None:
    """What the mask says, or None if it has to go in as it is."""
    read = ancestry.inputs_of(mask)
    if read is None or any(value.name != "position_ids" for value in read):
        return None
    asked = np.array([_POSITIONS, _POSITIONS[::-1]])
    given = _inputs(mask, asked)
    if given is None:
        return None
    try:
        (found,) = evaluate([mask], given, opset)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return None  # an operator that the reference does not have: the mask is taken as it is
    if found.dtype != bool or found.ndim != 4 or found.shape != (2, 1, len(_POSITIONS), _SLOTS):
        return None
    window = int(found[0, 0, -1].sum())
    slot = np.arange(_SLOTS)
    expected = (slot <= asked[..., None]) & (slot > asked[..., None] - window)
    if not np.array_equal(found[:, 0], expected):
        return None
    return Causal(-1 if window == _SLOTS else window)


def _inputs(mask: ir.Value, position_ids: np.ndarray) -> dict[ir.Value, np.ndarray] | None:
    """What the mask is worked out from: the positions, and inputs of which only the shape is looked at."""
    sizes = {"batch_size": len(position_ids), "seq_len": position_ids.shape[1], "ctx_len": _SLOTS}
    given = {}
    for value in _graph_inputs(mask):
        if value.name == "position_ids":
            given[value] = position_ids
            continue
        if value.shape is None or value.dtype is None:
            return None
        shape = [size if isinstance(size, int) else sizes.get(str(size.value), 0) for size in value.shape]
        given[value] = np.broadcast_to(np.zeros((), value.dtype.numpy()), shape)
    return given


def _graph_inputs(value: ir.Value) -> list[ir.Value]:
    seen: dict[ir.Value, None] = {}
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen[value] = None
        node = value.producer()
        waiting += [above for above in node.inputs if above is not None] if node is not None else []
    return [value for value in seen if value.is_graph_input()]
