"""How a value of one turn depends on the state that the turn finds: a sum of products, or not at all linearly.

A state's axes are numbered; 0 is the batch. Each axis of a value bears the numbers of the state's axes that lie in it:
none where its size is 1, several where a reshape has merged them. A value that is linear in a state S is

    sum of `whole` * S  +  sum of outer * (inner * S summed along `axis`)  +  sum of `free`

with products of factors that know nothing of S.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from qeffbuild.graph.shapes import Shape, constant_of
from qeffbuild.graph.shapes import shape_of as declared

Axes = tuple[int, ...]
Dims = tuple[Axes, ...]
ShapeOf = Callable[[ir.Value], Shape]


class NotLinear(Exception):
    """What was done to the state; the message names the operator."""


@dataclass(frozen=True, slots=True)
class Factor:
    """A value that needs no state, and which of the state's axes its own axes are."""

    value: ir.Value
    dims: Dims

    @property
    def axes(self) -> Axes:
        return tuple(axis for dim in self.dims for axis in dim)


@dataclass(frozen=True, slots=True)
class Product:
    factors: tuple[Factor, ...] = ()
    sign: int = 1

    def times(self, *factors: Factor) -> Product:
        return replace(self, factors=(*self.factors, *factors))

    def negated(self) -> Product:
        return replace(self, sign=-self.sign)

    @property
    def axes(self) -> frozenset[int]:
        return frozenset(axis for factor in self.factors for axis in factor.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """`base` says whose state: the mark of a turn's beginning, or what was made of its end."""

    base: object
    sizes: Shape
    dims: Dims
    whole: tuple[Product, ...] = ()
    inner: tuple[tuple[Product, Product], ...] = ()
    free: tuple[Product, ...] = ()
    axis: int | None = None

    @classmethod
    def of(cls, base: object, sizes: Shape) -> Linear:
        return cls(base=base, sizes=sizes, dims=tuple((axis,) for axis in range(len(sizes))), whole=(Product(),))

    @property
    def is_state(self) -> bool:
        return self.whole == (Product(),) and not self.inner and not self.free

    def each(self, change: Callable[[Product], Product]) -> Linear:
        inner = tuple((change(outer), summed) for outer, summed in self.inner)
        return replace(self, whole=tuple(map(change, self.whole)), inner=inner, free=tuple(map(change, self.free)))

    def negated(self) -> Linear:
        return self.each(Product.negated)

    def times(self, value: ir.Value, shape: Shape) -> Linear:
        factor, dims = self._aligned(value, shape)
        return replace(self.each(lambda product: product.times(factor)), dims=dims)

    def plus(self, value: ir.Value, shape: Shape, sign: int = 1) -> Linear:
        factor, dims = self._aligned(value, shape)
        return replace(self, dims=dims, free=(*self.free, Product((factor,), sign)))

    def joined(self, other: Linear) -> Linear:
        if other.base is not self.base or other.dims != self.dims:
            raise NotLinear("Add of unlike states")
        if None not in (self.axis, other.axis) and self.axis != other.axis:
            raise NotLinear("sums along two axes")
        axis = other.axis if self.axis is None else self.axis
        inner, free = self.inner + other.inner, self.free + other.free
        return replace(self, whole=self.whole + other.whole, inner=inner, free=free, axis=axis)

    def summed(self, place: int, *, keep: bool, by: Factor | None = None) -> Linear:
        """Summed along an axis, each element times `by` before."""
        dim = self.dims[place]
        if self.inner or self.free or len(dim) != 1:
            raise NotLinear("a sum of a sum")
        one = () if by is None else (by,)
        inner = tuple((Product(), product.times(*one)) for product in self.whole)
        middle: Dims = ((),) if keep else ()
        dims = (*self.dims[:place], *middle, *self.dims[place + 1 :])
        return replace(self, whole=(), inner=inner, dims=dims, axis=dim[0])

    def _aligned(self, value: ir.Value, shape: Shape) -> tuple[Factor, Dims]:
        """The value's axes beside ours, from the right."""
        rank = max(len(self.dims), len(shape))
        ours: Dims = ((),) * (rank - len(self.dims)) + self.dims
        dims: list[Axes] = []
        made = list(ours)
        for own, size in enumerate(shape):
            place = own + rank - len(shape)
            if size == 1:
                dims.append(())
                continue
            if not ours[place]:  # the product is wider than the state's part was: along the state's own axis, surely
                if rank != len(self.sizes) or any(place in dim for dim in ours):
                    raise NotLinear("a product wider than the state")
                made[place] = (place,)
            dims.append(made[place])
        return Factor(value, tuple(dims)), tuple(made)


def through(node: ir.Node, found: Sequence[Linear | None], shape_of: ShapeOf) -> Linear:
    """What an operator makes of inputs that are linear in a state (None where they do not know it)."""
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        raise NotLinear(node.op_type)
    return rule(node, found, shape_of)


def _same(node: ir.Node, found: Sequence[Linear | None], shape_of: ShapeOf) -> Linear:
    if found[0] is None:
        raise NotLinear(node.op_type)
    return found[0]


def _neg(node: ir.Node, found: Sequence[Linear | None], shape_of: ShapeOf) -> Linear:
    return _same(node, found, shape_of).negated()


def _add(node: ir.Node, found: Sequence[Linear | None], shape_of: ShapeOf) -> Linear:
    left, right = found
    sign = -1 if node.op_type == "Sub" else 1
    if left is not None and right is not None:
        return left.joined(right.negated() if sign < 0 else right)
    if left is not None:
        return left.plus(*_free(node, 1, shape_of), sign)
    assert right is not None
    return (right.negated() if sign < 0 else right).plus(*_free(node, 0, shape_of))


def _mul(node: ir.Node, found: Sequence[Linear | None], shape_of: ShapeOf) -> Linear:
    left, right = found
    if left is not None and right is not None:
        raise NotLinear("Mul of states")
    if left is not None:
        return left.times(*_free(node, 1, shape_of))
    assert right is not None
    return right.times(*_free(node, 0, shape_of))


def _transpose(node: ir.Node, found: Sequence[Linear | None], shape_of: ShapeOf) -> Linear:
    linear = _same(node, found, shape_of)
    return replace(linear, dims=tuple(linear.dims[place] for place in node.attributes["perm"].as_ints()))


def _squeeze(node: ir.Node, found: Sequence[Linear | None], shape_of: ShapeOf) -> Linear:
    linear = _same(node, found, shape_of)
    axes = constant_of(node.inputs[1]) if len(node.inputs) == 2 else None
    if axes is None:
        raise NotLinear(f"{node.op_type} along unknown axes")
    dims = list(linear.dims)
    if node.op_type == "Squeeze":
        gone = {int(axis) % len(dims) for axis in axes.reshape(-1)}
        if any(dims[place] for place in gone):
            raise NotLinear("Squeeze")
        return replace(linear, dims=tuple(dim for place, dim in enumerate(dims) if place not in gone))
    for place in sorted(int(axis) % (len(dims) + axes.size) for axis in axes.reshape(-1)):
        dims.insert(place, ())
    return replace(linear, dims=tuple(dims))


def _reshape(node: ir.Node, found: Sequence[Linear | None], shape_of: ShapeOf) -> Linear:
    """Axes may be merged with the first one, or come apart again; the first one takes what is left over."""
    linear = _same(node, found, shape_of)
    target = declared(node.outputs[0])
    if target is None:
        raise NotLinear("Reshape")
    left = [axis for dim in linear.dims for axis in dim]
    dims: list[Axes] = []
    for size in reversed(target[1:]):
        taken: list[int] = []
        product = 1
        while isinstance(size, int) and product < size and left and left[-1] != 0:
            taken.insert(0, left.pop())
            own = linear.sizes[taken[0]]
            product *= own if isinstance(own, int) else size + 1
        if product != size:
            raise NotLinear("Reshape")
        dims.insert(0, tuple(taken))
    if left[:1] != [0]:
        raise NotLinear("Reshape")
    return replace(linear, dims=(tuple(left), *dims))


def _reduce_sum(node: ir.Node, found: Sequence[Linear | None], shape_of: ShapeOf) -> Linear:
    linear = _same(node, found, shape_of)
    axes = constant_of(node.inputs[1]) if len(node.inputs) == 2 else None
    if axes is None or axes.size != 1:
        raise NotLinear("ReduceSum")
    keep = "keepdims" not in node.attributes or bool(node.attributes["keepdims"].as_int())
    return linear.summed(int(axes.reshape(-1)[0]) % len(linear.dims), keep=keep)


def _matmul(node: ir.Node, found: Sequence[Linear | None], shape_of: ShapeOf) -> Linear:
    """A product of the state's matrices with one vector each."""
    left, right = found
    if left is not None and right is not None:
        raise NotLinear("MatMul of states")
    value, shape = _free(node, 1 if left is not None else 0, shape_of)
    linear = left if left is not None else right
    assert linear is not None
    if len(shape) != len(linear.dims) or len(shape) < 2 or shape[-1 if left is not None else -2] != 1:
        raise NotLinear("MatMul")
    around = [() if size == 1 else dim for size, dim in zip(shape[:-2], linear.dims[:-2], strict=True)]
    if left is not None:
        return linear.summed(len(shape) - 1, keep=True, by=Factor(value, (*around, linear.dims[-1], ())))
    return linear.summed(len(shape) - 2, keep=True, by=Factor(value, (*around, (), linear.dims[-2])))


def _free(node: ir.Node, place: int, shape_of: ShapeOf) -> tuple[ir.Value, Shape]:
    value = node.inputs[place]
    assert value is not None
    return value, shape_of(value)


_RULES: dict[str, Callable[[ir.Node, Sequence[Linear | None], ShapeOf], Linear]] = {
    "Identity": _same, "CastLike": _same, "Cast": _same, "Neg": _neg, "Add": _add, "Sub": _add, "Mul": _mul,
    "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _squeeze, "Reshape": _reshape,
    "ReduceSum": _reduce_sum, "MatMul": _matmul,
}  # fmt: skip
