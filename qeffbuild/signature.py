"""What goes in and out of a graph: names, dtypes, axes, and which outputs are retained state.

Export writes it, documents are rendered from it, the runtime binds state by it; nobody parses tensor names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

Axis = int | str  # a fixed size, or the name of a symbol such as "batch_size", "seq_len", "ctx_len"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output. `dtype` is numpy's name: float32, float16, int64, int32, bool, int8 ("bfloat16" too)."""

    name: str
    dtype: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A tensor that stays on the device between runs: input `name`, output `output`, same dtype and axes.

    `kind` is "key", "value", "conv", "recurrent", "token" (the text itself), ...; `window` is the sliding window of
    its layer in tokens, or None.
    `positional` states have a ctx_len axis and are written at position_ids; the others are replaced whole.
    """

    name: str
    output: str
    dtype: str
    axes: tuple[Axis, ...]
    layer: int
    kind: str
    window: int | None = None
    positional: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class IoSignature:
    """One graph's inputs and outputs, states apart. The order is the graph's own: inputs, states; outputs, states.

    `held` are inputs that stay as they are from run to run: another graph makes them once (keys and values of a cross
    cache, the embeddings of an image), and this one only reads them. They come after the states.
    """

    graph: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    states: tuple[State, ...] = ()
    held: tuple[Tensor, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_json(), indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> IoSignature:
        return cls.from_json(json.loads(path.read_text()))

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> IoSignature:
        return cls(
            graph=said["graph"],
            inputs=_tensors(said["inputs"]),
            outputs=_tensors(said["outputs"]),
            held=_tensors(said.get("held", ())),
            states=tuple(State(**{**item, "axes": tuple(item["axes"])}) for item in said["states"]),
        )

    def with_inputs(self, inputs: tuple[Tensor, ...]) -> IoSignature:
        return replace(self, inputs=inputs)

    def with_outputs(self, outputs: tuple[Tensor, ...]) -> IoSignature:
        return replace(self, outputs=outputs)

    def with_states(self, states: tuple[State, ...]) -> IoSignature:
        return replace(self, states=states)


def _tensors(said: Iterable[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(**{**item, "axes": tuple(item["axes"])}) for item in said)
