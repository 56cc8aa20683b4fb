"""Where a graph's difference from PyTorch begins: what each layer hands on, looked for among all that the graph makes.

A backend's form has other nodes and other names than the export had. But a layer's output is some value of it, unless
it is wrong: the first layer whose output no value is near to is the one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qeffbuild.gate.listening import Layer
from qeffbuild.gate.questions import IS_IMAGE
from qeffbuild.gate.reference import Reference

_STANDS_OUT = 2.0

Span = tuple[int, int]  # tokens


@dataclass(slots=True)
class Search:
    """Shown every value of the first row's runs, one graph after the other; `errors[layer]` is how near each run came.

    `spans` are the tokens of each run of the graph that is run now; none where it is an encoder beside the main one.
    """

    reference: Reference
    spans: Sequence[Span] = ()
    errors: list[dict[Span | None, float]] = field(default_factory=list)
    wanted: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wanted = [self.reference.handed_on(0, layer) for layer in range(len(self.reference.layers))]
        self.errors = [{} for _ in self.wanted]

    def __call__(self, row: int, run: int, name: str, array: np.ndarray) -> None:
        if row or array.dtype.kind != "f":
            return
        for place, (layer, whole) in enumerate(zip(self.reference.layers, self.wanted, strict=True)):
            if not (layer.whole or self.spans):
                continue
            span = None if layer.whole else self.spans[run]
            wanted = whole if span is None else whole[slice(*span)]
            if array.size == wanted.size:
                difference = array.reshape(wanted.shape).astype(np.float64) - wanted  # masks are as far away as can be
                error = float(np.sqrt(np.square(difference).mean())) / (float(wanted.std()) or 1.0)
                self.errors[place][span] = min(self.errors[place].get(span, np.inf), error)

    def begins(self, usual: float) -> str | None:
        """In words; None where layers were not listened to. `usual` is an error that would surprise nobody.

        Later layers make an error larger: it begins where it grows most, counted from the usual.
        """
        if not self.errors:
            return None
        found = self._found(usual)
        before = np.maximum.accumulate([usual, *found[:-1]])
        growth = [after / error for after, error in zip(found, before, strict=True)]
        place = int(np.nanargmax(growth))
        if not growth[place] >= _STANDS_OUT:
            return "it begins behind the last layer, or in all of them alike"
        return self._named(place, found)

    def _found(self, usual: float) -> list[float]:
        """Of each layer the run that came least near.

        Some models leave out the last layers that see an image: they are in no graph. Where what enters the decoder is
        right, so was all that saw.
        """
        found = [max(runs.values(), default=np.inf) for runs in self.errors]
        layers = self.reference.layers
        entrance = next((place for place, layer in enumerate(layers) if layer.number is None and not layer.whole), None)
        if entrance is not None and IS_IMAGE in self.reference.rows[0] and found[entrance] < _STANDS_OUT * usual:
            found[:entrance] = [0.0] * entrance
        return found

    def _named(self, place: int, found: Sequence[float]) -> str:
        layer: Layer = self.reference.layers[place]
        before = "" if layer.number is None else f", {found[place - 1]:.1g} before it"
        return f"it begins {layer.named()} ({found[place]:.1g}{before})"
