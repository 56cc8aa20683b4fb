"""ONNX for the PyTorch operators that the exporter's own table lacks or translates in a roundabout way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset20 as op
from torch.utils._python_dispatch import _disable_current_modes

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


def _rsub(self: Any, other: float, alpha: float = 1) -> Any:
    return op.Sub(_number(other, self), self if alpha == 1 else op.Mul(self, _number(alpha, self)))


def _var(self: Any, dim: Sequence[int], unbiased: bool = True, keepdim: bool = False) -> Any:
    """Over axes whose sizes are known."""
    axes: Any = op.Constant(value_ints=list(dim))
    away = op.Sub(self, op.ReduceMean(self, axes, keepdims=1))
    found = op.ReduceMean(op.Mul(away, away), axes, keepdims=int(keepdim))
    count = math.prod(self.shape[axis] for axis in dim)
    return op.Mul(found, _number(count / (count - 1), found)) if unbiased else found


def _number(number: float, like: Any) -> Any:
    value: Any = op.Constant(value_float=float(number))
    return op.CastLike(value, like)


def _squeeze(self: Any, dim: int) -> Any:
    """An axis that is not 1 long stays."""
    axes: Any = op.Constant(value_ints=[dim])
    return op.Identity(self) if self.shape[dim] != 1 else op.Squeeze(self, axes)


def _squeeze_all(self: Any) -> Any:
    """Every axis of 1; one that is free is none, also where it happens to be 1 long."""
    axes: Any = op.Constant(value_ints=[axis for axis, size in enumerate(self.shape) if size == 1])
    return op.Squeeze(self, axes)


def _conv3d(
    self: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> Any:
    inputs = [self, weight] if bias is None else [self, weight, bias]
    pads = [*padding, *padding]
    return op.Conv(*inputs, strides=list(stride), pads=pads, dilations=list(dilation), group=groups)


def _conv2d_named_padding(
    self: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: str = "valid",
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    inputs = [self, weight] if bias is None else [self, weight, bias]
    named = {"valid": "VALID", "same": "SAME_UPPER"}[padding]
    return op.Conv(*inputs, strides=list(stride), auto_pad=named, dilations=list(dilation), group=groups)


def _resized(mode: str, *, antialias: bool) -> Callable[..., Any]:
    """[N,C,H,W] of known sizes at another size: each row, then each column, is a sum of others with fixed weights."""

    def resize(self: Any, output_size: Sequence[int], align_corners: bool, scale_factors: Any = None) -> Any:
        def weights(old: int, new: int, *, turned: bool) -> Any:
            options: dict[str, Any] = {"mode": mode, "align_corners": align_corners, "antialias": antialias}
            with _disable_current_modes():  # numbers, in the midst of a trace
                grid = torch.nn.functional.interpolate(torch.eye(old)[None, None], size=(new, old), **options)[0, 0]
                return _matrix((grid.T if turned else grid).tolist(), self)

        (height, width), (new_height, new_width) = self.shape[2:], output_size
        rows, columns = weights(height, new_height, turned=False), weights(width, new_width, turned=True)
        return op.MatMul(op.MatMul(rows, self), columns)

    return resize


def _matrix(numbers: list[list[float]], like: Any) -> Any:
    flat: Any = op.Constant(value_floats=[number for row in numbers for number in row])
    shape: Any = op.Constant(value_ints=[len(numbers), len(numbers[0])])
    return op.CastLike(op.Reshape(flat, shape), like)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split_with_sizes,
    aten.chunk.default: _chunk,
    aten.square.default: _square,
    aten.squeeze.default: _squeeze_all,
    aten.squeeze.dim: _squeeze,
    aten.rsub.Scalar: _rsub,
    aten.var.dim: _var,
    aten.conv2d.padding: _conv2d_named_padding,
    aten.conv3d.default: _conv3d,
    aten.upsample_bilinear2d.vec: _resized("bilinear", antialias=False),
    aten.upsample_bicubic2d.vec: _resized("bicubic", antialias=False),
    aten._upsample_bilinear2d_aa.vec: _resized("bilinear", antialias=True),
    aten._upsample_bicubic2d_aa.vec: _resized("bicubic", antialias=True),
}
