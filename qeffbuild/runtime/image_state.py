"""Rows of tokens and their images -> logits: the decoder's state, and the embeddings that it reads beside it.

An image is embedded when its prompt enters a slot; how many of its embeddings are taken goes from run to run. In a
package of one graph the pixels themselves are held, and every run embeds them anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from qeffbuild.runtime.request import Limits
from qeffbuild.runtime.scheduler import Row
from qeffbuild.runtime.seeing import Seen
from qeffbuild.runtime.session import Session
from qeffbuild.runtime.state import GRAPH, PADDING, Buffers, State

VISION, PIXELS, TAKEN, GRID = "vision", "pixel_values", "image_idx", 4


class ImageState(State):
    """One cache of `limits.slots` rows, each with room for the images that were built for."""

    inputs = (*State.inputs, TAKEN)

    def __init__(self, session: Session, limits: Limits, facts: Mapping[str, Any], *, has_vision: bool) -> None:
        super().__init__(session, limits)
        self._most, self._size = facts["max_num_images"], facts["vision_size"]
        self._has_vision, self._has_grid = has_vision, facts["has_grid"]
        self._seeing = session.allocate(VISION, 1, 0) if has_vision else None
        self._taken = np.zeros((self._slots, 1), np.int64)
        self._positions: dict[int, np.ndarray] = {}
        sizes = {"batch_size": self._slots, "vision_size": self._most * self._size}
        self._held = {
            tensor.name: np.full([sizes.get(a, a) if isinstance(a, str) else a for a in tensor.axes], 0.5, tensor.dtype)
            for tensor in session.signature(GRAPH).held
        }
        session.hold(self.states, self._held)

    def begin(self, slot: int, seen: Seen | None) -> None:
        """A prompt enters a slot with its images."""
        assert seen is not None
        self._taken[slot] = 0
        if seen.positions is not None:
            self._positions[slot] = seen.positions
        for number, pixels in enumerate(seen.pixels):
            if not self._has_vision:
                each = len(pixels)
                self._held[PIXELS][number * each : (number + 1) * each] = pixels
                continue
            made = self.session.run(VISION, {PIXELS: pixels}, self._seeing)
            place = slice(number * self._size, (number + 1) * self._size)
            for name, array in made.items():
                self._held[name][slot, ..., place, :] = array[0]
        self.session.hold(self.states, self._held)

    def run(self, width: int, rows: Iterable[Row], *, keep: int = 1) -> np.ndarray:
        assert keep in (0, 1), "refused while planning"
        keep = keep or width
        buffers = self._buffers.get((width, keep)) or self._make_buffers(width, keep)
        places = buffers.positions
        places.fill(PADDING)
        for slot, start, token_ids, _ in rows:
            count = len(token_ids)
            buffers.token_ids[slot, :count] = token_ids
            places[..., slot, :count] = np.arange(start, start + count)
            if self._has_grid:
                places[1:, slot, :count] = self._turned(slot, start, count)
            if keep == 1:
                buffers.logits_index[slot, 0] = count - 1
        np.copyto(buffers.feed[TAKEN], self._taken)
        made = self.session.run(GRAPH, buffers.feed, self.states)
        np.copyto(self._taken, made[f"{TAKEN}_output"])
        return made["logits"]

    def _turned(self, slot: int, start: int, count: int) -> np.ndarray:
        """[3, count] in time, height and width; what follows the prompt goes on from the largest, one by one."""
        known = self._positions[slot]
        length, following = known.shape[1], known.max() + 1
        places = np.arange(start, start + count)
        after = np.broadcast_to(following + places - length, (3, count))
        return np.where(places < length, known[:, np.minimum(places, length - 1)], after)

    def _make_buffers(self, width: int, keep: int) -> Buffers:
        buffers = super()._make_buffers(width, keep)
        feed = {**buffers.feed, TAKEN: np.zeros((self._slots, 1), self._dtypes[TAKEN])}
        if self._has_grid:
            feed["position_ids"] = np.zeros((GRID, self._slots, width), self._dtypes["position_ids"])
        made = Buffers(feed, feed["input_ids"], feed["position_ids"], feed["logits_index"], None)
        self._buffers[width, keep] = made
        return made
