"""Rows of tokens -> logits: the session's retained state and the input buffers that it is fed from; knows no model.

Buffers are made once per shape and written in place, so that a session can bind them once. Nothing has to be wiped
between requests: a row begins at position 0, and a position is written before any later one can see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from qeffbuild.errors import RunError
from qeffbuild.runtime.request import Limits
from qeffbuild.runtime.scheduler import Row
from qeffbuild.runtime.session import Session

GRAPH = "decoder"
LORA_IDS = "lora_ids"  # [batch_size, 1]: the adapter of each row, where a package has several
INPUTS = ("input_ids", "position_ids", "logits_index")
PADDING = -1  # the position of a token that is neither written to the cache nor attends to anything


@dataclass(frozen=True, slots=True)
class Buffers:
    """The inputs of one shape: tokens and positions [batch_size, seq_len], logits_index [batch_size, num_logits]."""

    feed: dict[str, np.ndarray]
    token_ids: np.ndarray
    positions: np.ndarray
    logits_index: np.ndarray
    lora_ids: np.ndarray | None


class State:
    """One cache of `limits.slots` rows, and the way to run tokens through it."""

    inputs: tuple[str, ...] = INPUTS

    def __init__(self, session: Session, limits: Limits) -> None:
        signature = session.signature(GRAPH)
        dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in signature.inputs}
        if set(dtypes) - {LORA_IDS} != set(self.inputs):
            raise RunError(
                "run.task",
                f"the graph's inputs are {', '.join(dtypes)}; text is generated from {', '.join(self.inputs)}",
                hint="build a package with model.task=causal-lm",
            )
        self.session = session
        self._slots = limits.slots
        self._dtypes = dtypes
        self.states = session.allocate(GRAPH, limits.slots, limits.ctx_len)
        self._buffers: dict[tuple[int, int], Buffers] = {}
        moving = [state for state in signature.states if not state.positional and state.kind != "adapter"]
        self.replaced = {state.name: state.axes.index("batch_size") for state in moving}  # whole, by every run
        self._copies: dict[tuple[str, int], np.ndarray] = {}

    def begin(self, slot: int, seen: Any) -> None:
        """A prompt enters a slot; text alone leaves nothing to prepare."""

    def run(self, width: int, rows: Iterable[Row], *, keep: int = 1) -> np.ndarray:
        """Logits [slots, keep, vocab] of each row's last tokens in their order; keep=0: of all, [slots, width, vocab].

        Rows of `width` are right-padded, and so are the logits of a row of fewer tokens; slots without a row idle, and
        their logits mean nothing. The result is a view that holds until the next run.
        """
        keep = min(keep or width, width)
        buffers = self._buffers.get((width, keep)) or self._make_buffers(width, keep)
        buffers.positions.fill(PADDING)
        for slot, start, token_ids, adapter in rows:
            count = len(token_ids)
            if buffers.lora_ids is not None:
                buffers.lora_ids[slot, 0] = adapter
            if count == 1:
                buffers.token_ids[slot, 0] = token_ids[0]
                buffers.positions[slot, 0] = start
            else:
                buffers.token_ids[slot, :count] = token_ids
                buffers.positions[slot, :count] = range(start, start + count)
            if keep == 1:
                buffers.logits_index[slot, 0] = count - 1
            elif keep < width:
                first = max(count - keep, 0)
                buffers.logits_index[slot] = range(first, first + keep)
        return self.session.run(GRAPH, buffers.feed, self.states)["logits"]

    def keep(self, slots: Iterable[int]) -> None:
        """Copies what no later run could write over: states of these slots that are replaced whole."""
        for name, slot, content in self._contents(slots):
            self._copies[name, slot] = content.copy()

    def put_back(self, slots: Iterable[int]) -> None:
        """Takes back what these slots were fed since `keep`."""
        for name, slot, content in self._contents(slots):
            content[...] = self._copies[name, slot]

    def _contents(self, slots: Iterable[int]) -> Iterator[tuple[str, int, np.ndarray]]:
        if self.replaced:
            arrays = self.session.contents(self.states)
            for slot, (name, axis) in product(slots, self.replaced.items()):
                yield name, slot, np.moveaxis(arrays[name], axis, 0)[slot]

    def load_adapter(self, weights: Mapping[str, np.ndarray] | None) -> None:
        """Puts an adapter's weights where the graph takes them as inputs; None takes out what is there."""
        values: dict[str, np.ndarray] = {}
        for state in self.session.signature(GRAPH).states:
            if state.kind == "adapter":
                shape = [axis for axis in state.axes if isinstance(axis, int)]
                given = np.zeros(shape) if weights is None else weights[state.name]
                values[state.name] = given.astype(state.dtype)
        self.session.hold(self.states, values)

    def _make_buffers(self, width: int, keep: int) -> Buffers:
        indices = np.arange(keep)
        shapes = {"input_ids": (self._slots, width), "position_ids": (self._slots, width)}
        feed = {name: np.zeros(shape, self._dtypes[name]) for name, shape in shapes.items()}
        feed["logits_index"] = np.tile(indices.astype(self._dtypes["logits_index"]), (self._slots, 1))
        if LORA_IDS in self._dtypes:
            feed[LORA_IDS] = np.zeros((self._slots, 1), self._dtypes[LORA_IDS])
        buffers = Buffers(feed, feed["input_ids"], feed["position_ids"], feed["logits_index"], feed.get(LORA_IDS))
        self._buffers[width, keep] = buffers
        return buffers
