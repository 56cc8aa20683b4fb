"""One run of several rows -> the runs that fused attention can take: one token of many rows, or many of one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qeffbuild.signature import IoSignature, Tensor

POSITIONS = "position_ids"
INDEX = "logits_index"


@dataclass(frozen=True, slots=True)
class Part:
    """Rows start..stop, each with its first `tokens` tokens; `idle` are rows among them that have none."""

    start: int
    stop: int
    tokens: int
    idle: tuple[int, ...] = ()

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


def is_whole(position_ids: np.ndarray) -> bool:
    """Whether the run can be taken as it is: no padding, and one token of each row or a single row."""
    if position_ids.size == 1:
        return position_ids.item() >= 0
    return 1 in position_ids.shape and bool(position_ids.min() >= 0)


def parts(position_ids: np.ndarray) -> list[Part]:
    """Rows are padded at their end; what is padding, and rows of nothing else, are left out."""
    counts = (position_ids >= 0).sum(axis=1)
    active = np.flatnonzero(counts).tolist()
    if position_ids.shape[1] > 1:
        return [Part(row, row + 1, int(counts[row])) for row in active]
    if not active:
        return []
    start, stop = active[0], active[-1] + 1
    return [Part(start, stop, 1, tuple(row for row in range(start, stop) if not counts[row]))]


def inputs_of(part: Part, signature: IoSignature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The part's share of each input: views."""
    return {tensor.name: _share(part, tensor, inputs[tensor.name]) for tensor in signature.inputs}


def _share(part: Part, tensor: Tensor, array: np.ndarray) -> np.ndarray:
    for axis, name in enumerate(tensor.axes):
        cut = {"batch_size": part.rows, "seq_len": slice(part.tokens)}.get(str(name))
        if cut is not None:
            array = array[(slice(None),) * axis + (cut,)]
    # Logits of padding mean nothing, but there has to be a token to take them from.
    return np.minimum(array, part.tokens - 1) if tensor.name == INDEX else array


def place_outputs(
    part: Part, signature: IoSignature, made: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray]
) -> None:
    """Copies what a part gave to where it is in the whole run's outputs."""
    for tensor in signature.outputs:
        cuts = {"batch_size": part.rows, "seq_len": slice(part.tokens)}
        whole[tensor.name][tuple(cuts.get(str(axis), slice(None)) for axis in tensor.axes)] = made[tensor.name]
