"""Products of factors of one turn -> tensors over a chunk's tokens, with the state's axes where they belong."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.chunked.linear import Factor, NotLinear, Product
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.shapes import Shape


class Placing:
    """`extent` is (tokens, batch), `sizes` are the state's; `of_chunk` gives a turn's value as rows (token, batch)."""

    def __init__(self, emit: Emitter, extent: ir.Value, sizes: Shape, of_chunk: Callable[[ir.Value], ir.Value]) -> None:
        self.emit, self.extent, self.sizes, self.of_chunk = emit, extent, sizes, of_chunk

    def matrix(self, product: Product, head: int | None, axis: int | None) -> ir.Value:
        """[B, head, tokens, axis], with 1 where the product is the same along one of them."""
        made = [self.placed(self.of_chunk(factor.value), factor, head, axis) for factor in _sorted(product)]
        return self._signed(product, made or [self.emit.constant(np.ones((1, 1, 1, 1), np.float32))])

    def elements(self, product: Product, axes: tuple[int, ...]) -> ir.Value:
        """[tokens, B, *axes]"""
        return self._signed(product, [self.along(self.of_chunk(f.value), f, axes) for f in _sorted(product)])

    def placed(self, value: ir.Value, factor: Factor, head: int | None, axis: int | None) -> ir.Value:
        """[B, head, tokens, axis] of a value that has the factor's axes."""
        if set(factor.axes) - {0, head, axis}:
            raise NotLinear("a factor with more axes than it may have")
        return self.emit("Transpose", self.along(value, factor, (head, axis)), perm=[1, 2, 0, 3])

    def along(self, value: ir.Value, factor: Factor, axes: Iterable[int | None]) -> ir.Value:
        """[tokens, B, *axes], with 1 for what the factor does not have."""
        own = factor.axes
        if list(own) != sorted(own):
            raise NotLinear("a factor with its axes turned")
        sizes = [int(self.sizes[axis]) if axis is not None and axis in own else 1 for axis in axes]
        if 0 not in own:
            return self.emit("Reshape", value, [1, 1, *sizes])
        return self.emit("Reshape", value, self.emit("Concat", self.extent, sizes, axis=0))

    def _signed(self, product: Product, values: list[ir.Value]) -> ir.Value:
        made = folded(self.emit, "Mul", values)
        return self.emit("Neg", made) if product.sign < 0 else made


def folded(emit: Emitter, op_type: str, values: list[ir.Value]) -> ir.Value:
    first, *rest = values
    for value in rest:
        first = emit(op_type, first, value)
    return first


def _sorted(product: Product) -> list[Factor]:
    """Small factors first, so that the largest product is made last."""
    return sorted(product.factors, key=lambda factor: len(factor.axes))
