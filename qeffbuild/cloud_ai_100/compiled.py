"""The shapes that a package's program was compiled for, read back from its specializations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qeffbuild.cloud_ai_100.names import SPECIALIZATIONS
from qeffbuild.package import Package
from qeffbuild.signature import Axis, IoSignature

_SILENCE = 1  # frames that stand for no new sound


@dataclass(frozen=True, slots=True)
class Entry:
    """One set of static shapes."""

    symbols: Mapping[str, int]

    @property
    def rows(self) -> int:
        return self.symbols["batch_size"]

    @property
    def width(self) -> int:
        return self.symbols["seq_len"]

    @property
    def context(self) -> int:
        return self.symbols.get("ctx_len") or self.symbols["decoder_ctx_len"]

    @property
    def kept(self) -> int:
        """How many logits of each row come out."""
        return self.symbols.get("num_logits_to_keep", 1)

    @property
    def reads(self) -> int:
        """How many positions of the context are computed with."""
        return self.symbols.get("comp_ctx_lengths", self.context)

    @property
    def hears(self) -> bool:
        return self.symbols.get("feature_len", _SILENCE) > _SILENCE

    def shape(self, axes: tuple[Axis, ...]) -> tuple[int, ...]:
        return tuple(axis if isinstance(axis, int) else self.symbols[axis] for axis in axes)

    def fits(self, inputs: Mapping[str, np.ndarray], signature: IoSignature) -> bool:
        """Whether these are the shapes of all inputs."""
        return all(inputs[each.name].shape == self.shape(each.axes) for each in signature.inputs)


def entries(package: Package) -> tuple[Entry, ...]:
    """Named or flat, every size is written as a text."""
    said = json.loads((package.path / SPECIALIZATIONS).read_text("utf-8"))["specializations"]
    return tuple(Entry({symbol: int(size) for symbol, size in entry.get("symbols", entry).items()}) for entry in said)
