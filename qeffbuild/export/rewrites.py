"""A traced program -> the same in operators that ONNX has a word for: what of run_decompositions our graphs need.

Values keep their names, and dtypes are promoted where PyTorch would do it unasked.
"""

from __future__ import annotations

from typing import Any

import torch

from qeffbuild.export.writes import as_large, called, is_written, operand, works_in_place, write

aten = torch.ops.aten

# What these do to a value matters to PyTorch's memory, not to a graph of values.
IDENTITIES = frozenset(
    {
        aten.contiguous.default,
        aten.clone.default,
        aten.dropout.default,
        aten.detach.default,
        aten.detach_.default,
        aten.alias.default,
        aten.lift_fresh_copy.default,
    }
)
COPIES = frozenset({aten.clone.default, aten.lift_fresh_copy.default})
CASTS = frozenset({aten.to.dtype, aten.to.dtype_layout, aten.to.device})
ARITHMETIC = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})
SPELLINGS = {
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
    aten.max.other: aten.maximum.default,
    aten.min.other: aten.minimum.default,
}


def rewrite(module: torch.fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            _rewrite(module.graph, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _rewrite(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    if node.target in SPELLINGS:
        node.target = SPELLINGS[node.target]
    elif node.target is aten.numpy_T.default and operand(node).meta["val"].dim() == 2:
        node.target = aten.t.default
    elif node.target is torch._C._set_grad_enabled:
        graph.erase_node(node)
    elif node.target in IDENTITIES or (node.target in CASTS and _dtype(operand(node)) == _dtype(node)):
        _drop(graph, node)
    elif node.target in CASTS:
        _cast(node)
    elif works_in_place(node):
        _make_value(graph, node)


def _dtype(node: Any) -> torch.dtype:
    return node.meta["val"].dtype


def _cast(node: torch.fx.Node) -> None:
    node.target, node.kwargs = aten._to_copy.default, {"dtype": _dtype(node)}
    node.args = node.args[:1]


def _drop(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    if any(user.op == "output" for user in node.users) or (node.target in COPIES and is_written(node)):
        # The program's signature knows its outputs by name, and a copy is made to be written into: these stay, as
        # casts to the dtype they have.
        _cast(node)
        return
    node.replace_all_uses_with(operand(node))
    graph.erase_node(node)


def _make_value(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """x.op_(y) -> op(x, y), read by all who would have read x afterwards."""
    target: Any = node.target
    if target is aten.copy_.default:
        value = as_large(node, node.args[1])
    elif target is aten.fill_.Scalar:
        value = called(node, aten.full_like.default, node.args)
    else:
        packet = getattr(aten, target.overloadpacket.__name__.removesuffix("_"), None)
        plain = getattr(packet, target._overloadname, None)
        if plain is None:
            raise NotImplementedError(f"{target} has no form that works out of place")
        if plain in ARITHMETIC:
            _as_wide_as(operand(node), node)
        value = called(node, plain, node.args, **node.kwargs)
    write(graph, node, value)


def _as_wide_as(changed: Any, node: torch.fx.Node) -> None:
    """In place, the result has the dtype of what is changed: whole numbers become such as those that they meet."""
    other = node.args[1]
    dtype = _dtype(changed)
    if isinstance(other, torch.fx.Node) and dtype.is_floating_point and not _dtype(other).is_floating_point:
        cast = called(node, aten._to_copy.default, (other,), dtype=dtype)
        node.args = (changed, cast, *node.args[2:])
