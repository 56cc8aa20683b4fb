"""Where a graph's difference from PyTorch begins: what each layer hands on, looked for among all that the graph makes.

A backend's form has other nodes and other names than the export had. But a layer's output is some value of it, unless
it is wrong: the first layer whose output no value is near to is the one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qeffbuild.gate.reference import Reference

_STANDS_OUT = 2.0


@dataclass(slots=True)
class Search:
    """Shown every value of a run of the first row; `errors[layer][run]` is how near the nearest came."""

    reference: Reference
    spans: Sequence[tuple[int, int]]  # of the runs, in tokens
    errors: list[list[float]] = field(default_factory=list)
    wanted: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wanted = [self.reference.handed_on(0, layer) for layer in range(len(self.reference.layers))]
        self.errors = [[np.inf] * len(self.spans) for _ in self.wanted]

    def __call__(self, row: int, run: int, name: str, array: np.ndarray) -> None:
        if row or array.dtype.kind != "f":
            return
        start, stop = self.spans[run]
        for layer, whole in enumerate(self.wanted):
            wanted = whole[start:stop]
            if array.size == wanted.size:
                difference = np.sqrt(np.square(array.reshape(wanted.shape) - wanted).mean())
                error = float(difference) / (float(wanted.std()) or 1.0)
                self.errors[layer][run] = min(self.errors[layer][run], error)

    def begins(self, usual: float) -> str | None:
        """In words; None where layers were not listened to. `usual` is an error that would surprise nobody.

        Later layers make an error larger: it begins where it grows most, counted from the usual.
        """
        found = [max(each) for each in self.errors]
        if not found:
            return None
        before = [max(usual, error) for error in [0.0, *found[:-1]]]
        growth = [after / error for after, error in zip(found, before, strict=True)]
        layer = int(np.argmax(growth))
        if not growth[layer] >= _STANDS_OUT:
            return "it begins behind the last layer, or in all of them alike"
        return self._named(layer, found)

    def _named(self, layer: int, found: Sequence[float]) -> str:
        name, count = self.reference.layers[layer], len(self.reference.layers) - 1
        before = f", {found[layer - 1]:.1g} before it" if layer else ""
        place = "before the first layer" if layer == 0 else f"in {name}, layer {layer - 1} of {count}"
        return f"it begins {place} ({found[layer]:.1g}{before})"
