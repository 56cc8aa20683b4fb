"""Which nodes treat each token by itself, so that it does not matter to them how tokens are arranged, or how many."""

from __future__ import annotations

from collections.abc import Container

import onnx_ir as ir

PRODUCTS = frozenset({"MatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits"})
_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "Softmax"})
_SUMS_AND_NORMS = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
_REDUCTIONS = frozenset({"ReduceMax", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare"})
_ALONG = frozenset({"Concat", "Split"})
_ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_ELEMENTWISE = frozenset(
    {
        *("Abs", "Add", "Cast", "Clip", "Div", "Erf", "Exp", "FastGelu", "Gelu", "Identity", "LeakyRelu", "Log", "Max"),
        *("Min", "Mul", "Neg", "Pow", "QuickGelu", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh"),
    }
)


def is_tokenwise(node: ir.Node, constants: Container[ir.Value], *, last: Container[int] = (-1,)) -> bool:
    """Whether a token of its outputs is made of the same token of its inputs, and of constants.

    Tokens have any axes but the last, whose names are `last`.
    """
    kind, given = node.op_type, [value for value in node.inputs if value is not None]
    known = [value for value in given if value in constants]
    if len(known) == len(given):
        return False
    if kind in PRODUCTS:
        return given[0] not in constants and len(known) == len(given) - 1
    if kind in _ROUNDING:
        return all(value.shape is not None and len(value.shape) == 0 for value in known)
    if kind in _REDUCTIONS:
        axes = known[0].const_value if len(given) == 2 and known else None
        named = [] if axes is None else axes.numpy().tolist()
        return len(named) == 1 and named[0] in last and node.attributes.get_int("keepdims", 1) == 1
    if kind in _NORMS or kind in _ALONG:
        return node.attributes.get_int("axis", -1 if kind in _NORMS else 0) in last
    return kind in _SUMS_AND_NORMS or (kind in _ELEMENTWISE and all(map(_is_alike_for_tokens, known)))


def _is_alike_for_tokens(constant: ir.Value) -> bool:
    return constant.shape is not None and all(size == 1 for size in constant.shape[:-1])
