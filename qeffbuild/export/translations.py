"""ONNX for the PyTorch operators that the exporter's own table lacks or translates in a roundabout way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset20 as op

aten = torch.ops.aten


def _split(self: Any, split_size: int, dim: int = 0) -> Sequence[Any]:
    """Equal pieces by one Split; a sequence, as the table would make it, is not for compilers."""
    pieces = -(-self.shape[dim] // split_size)
    made = op.Split(self, axis=dim, num_outputs=pieces)
    return made if pieces > 1 else [made]


def _split_with_sizes(self: Any, split_sizes: Sequence[int], dim: int = 0) -> Sequence[Any]:
    made, start = [], 0
    for size in split_sizes:
        made.append(_slice(self, start, start + size, dim))
        start += size
    return made


def _chunk(self: Any, chunks: int, dim: int = 0) -> Sequence[Any]:
    return _split(self, -(-self.shape[dim] // chunks), dim)


def _slice(self: Any, start: int, stop: int, dim: int) -> Any:
    bounds: list[Any] = [op.Constant(value_ints=[bound]) for bound in (start, stop, dim)]
    return op.Slice(self, *bounds)


def _square(self: Any) -> Any:
    return op.Mul(self, self)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split_with_sizes,
    aten.chunk.default: _chunk,
    aten.square.default: _square,
}
