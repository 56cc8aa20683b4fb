"""A graph's signature and a row of the reference -> the inputs of each of its runs, whatever form a backend gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qeffbuild.gate.figures import ends
from qeffbuild.gate.questions import HEARD, IS_IMAGE, KINDS, POSITIONS, SOUND, START, Row
from qeffbuild.signature import Axis, IoSignature, State, Tensor

# Settings that change nothing, where 0 would.
_NEUTRAL = {"repetition_penalties": 1, "temperatures": 0, "top_ps": 1, "token_bitmasks": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Tokens start..stop of a row, and all that goes in beside the states."""

    start: int
    stop: int
    inputs: Mapping[str, np.ndarray]


def runs(signature: IoSignature, row: Row, held: Row) -> tuple[Run, ...]:
    """A prefill in chunks and two decodes where there are states, else everything at once.

    `held` is what other graphs made of the row; tokens of an image are not told apart.
    """
    length, seen = tokens(row), np.flatnonzero(row[IS_IMAGE][0]) if IS_IMAGE in row else np.array([-1])
    together = int((row[KINDS] == 0).sum()) if KINDS in row else int(seen[-1]) + 1
    parts = ends(length, after=together) if signature.states else iter([(0, length)])
    return tuple(Run(start=a, stop=b, inputs=_inputs(signature, row, held, a, b)) for a, b in parts)


def tokens(row: Row) -> int:
    """Of the text that goes through the graph with states, or through the only graph."""
    return int(_text(row).shape[1])


def _text(row: Row) -> np.ndarray:
    return row[START] if START in row else next(iter(row.values()))


def states(signature: IoSignature, row: Row, held: Row) -> dict[str, np.ndarray]:
    """Empty ones of one row, with room for the row and some slots that are never written; what is held as it is."""
    room = context(tokens(row))
    sizes = {"ctx_len": room, "decoder_ctx_len": room, HEARD: int(row[HEARD][0]) if HEARD in row else 1}
    return {
        state.name: held[state.name].astype(state.dtype)
        if state.name in held
        else np.zeros(_shape(state, {**sizes, **_window(state)}), state.dtype)
        for state in signature.states
    }


def context(length: int) -> int:
    return length + 6


def _window(state: State) -> dict[str, int]:
    return {} if state.window is None else {"sliding_window": state.window}


def _inputs(signature: IoSignature, row: Row, held: Row, start: int, stop: int) -> dict[str, np.ndarray]:
    count, room = stop - start, context(tokens(row))
    sizes = {
        "seq_len": count,
        "num_logits": count,
        "num_logits_to_keep": count,
        "comp_ctx_lengths": room,
        "ctx_len": room,
    }
    given = _given(row, held, start, stop) if signature.states else {"attention_mask": np.ones((1, stop)), **row}
    made = {}
    for tensor in (*signature.inputs, *signature.held):
        if tensor.name in given:
            made[tensor.name] = given[tensor.name].astype(tensor.dtype)
        else:
            made[tensor.name] = np.full(_shape(tensor, sizes), _NEUTRAL.get(tensor.name, 0), tensor.dtype)
    return made


def _given(row: Row, held: Row, start: int, stop: int) -> dict[str, np.ndarray]:
    """What a decoder takes for tokens start..stop, by all the names that one may have for it."""
    given = {**held, "attention_mask": np.ones((1, stop - start)), "position_ids": np.arange(start, stop)[None]}
    given |= {"logits_index": np.arange(stop - start)[None], "input_ids": _text(row)[:, start:stop]}
    if START in row:
        heard = max((array.shape[2] for array in held.values() if array.ndim == 4), default=1)
        given["encoder_attention_mask"] = row.get("attention_mask", np.ones((1, heard)))
    if SOUND in row:  # one frame means that what was heard stays
        given[SOUND] = row[SOUND] if start == 0 else np.zeros_like(row[SOUND][..., :1])
    if IS_IMAGE in row:
        given["image_idx"] = row[IS_IMAGE][:, :start].sum(axis=1, keepdims=True)
    if POSITIONS in row:
        given["position_ids"] = row[POSITIONS][..., start:stop]
    return given


def _shape(said: Tensor | State, sizes: Mapping[str, int]) -> list[int]:
    """Rows, and whatever else has no size of its own, are one."""

    def size(axis: Axis) -> int:
        return axis if isinstance(axis, int) else sizes.get(axis, 1)

    return [size(axis) for axis in said.axes]
