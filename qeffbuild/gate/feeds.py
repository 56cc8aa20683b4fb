"""A graph's signature and a row of the reference -> the inputs of each of its runs, whatever form a backend gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qeffbuild.gate.figures import ends
from qeffbuild.signature import Axis, IoSignature, State, Tensor

# Settings that change nothing, where 0 would.
_NEUTRAL = {"repetition_penalties": 1, "temperatures": 0, "top_ps": 1, "token_bitmasks": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Tokens start..stop of a row, and all that goes in beside the states."""

    start: int
    stop: int
    inputs: Mapping[str, np.ndarray]


def runs(signature: IoSignature, row: Mapping[str, np.ndarray]) -> tuple[Run, ...]:
    """A prefill in chunks and two decodes where there are states, else everything at once."""
    length = next(iter(row.values())).shape[1]
    parts = ends(length) if signature.states else iter([(0, length)])
    return tuple(Run(start=a, stop=b, inputs=_inputs(signature, row, a, b)) for a, b in parts)


def states(signature: IoSignature, length: int) -> dict[str, np.ndarray]:
    """Empty ones of one row, with room for the row and some slots that are never written."""
    sizes = {"ctx_len": context(length)}
    return {state.name: np.zeros(_shape(state, {**sizes, **_window(state)}), state.dtype) for state in signature.states}


def context(length: int) -> int:
    return length + 6


def _window(state: State) -> dict[str, int]:
    return {} if state.window is None else {"sliding_window": state.window}


def _inputs(signature: IoSignature, row: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    tokens, length = stop - start, next(iter(row.values())).shape[1]
    sizes = {
        "seq_len": tokens,
        "num_logits": tokens,
        "num_logits_to_keep": tokens,
        "comp_ctx_lengths": context(length),
        "ctx_len": context(length),
    }
    known = {
        "position_ids": np.arange(start, stop)[None],
        "logits_index": np.arange(tokens)[None],
        "attention_mask": np.ones((1, tokens)),
    }
    made = {}
    for tensor in signature.inputs:
        if tensor.name in row:
            made[tensor.name] = row[tensor.name][:, start:stop].astype(tensor.dtype)
        elif tensor.name in known:
            made[tensor.name] = known[tensor.name].astype(tensor.dtype)
        else:
            made[tensor.name] = np.full(_shape(tensor, sizes), _NEUTRAL.get(tensor.name, 0), tensor.dtype)
    return made


def _shape(said: Tensor | State, sizes: Mapping[str, int]) -> list[int]:
    """Rows, and whatever else has no size of its own, are one."""

    def size(axis: Axis) -> int:
        return axis if isinstance(axis, int) else sizes.get(axis, 1)

    return [size(axis) for axis in said.axes]
