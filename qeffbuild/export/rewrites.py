"""A traced program -> the same in operators that ONNX has a word for: what of run_decompositions our graphs need.

Values keep their names, and dtypes are promoted where PyTorch would do it unasked.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

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
CASTS = frozenset({aten.to.dtype, aten.to.dtype_layout, aten.to.device})
ARITHMETIC = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})
VIEWS = frozenset({aten.slice.Tensor, aten.select.int})
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
    elif node.target is aten.numpy_T.default and _operand(node).meta["val"].dim() == 2:
        node.target = aten.t.default
    elif node.target is torch._C._set_grad_enabled:
        graph.erase_node(node)
    elif node.target in IDENTITIES or (node.target in CASTS and _dtype(_operand(node)) == _dtype(node)):
        _drop(graph, node)
    elif node.target in CASTS:
        _cast(node)
    elif node.target is aten.copy_.default and (changed := _wholly_written(node)) is not None:
        _overwrite(graph, node, changed)
    elif _works_in_place(node):
        _make_value(node)


def _operand(node: torch.fx.Node) -> Any:
    """What the operator works on; fx's own type for it names everything that an argument can be."""
    return node.args[0]


def _dtype(node: Any) -> torch.dtype:
    return node.meta["val"].dtype


def _cast(node: torch.fx.Node) -> None:
    node.target, node.kwargs = aten._to_copy.default, {"dtype": _dtype(node)}
    node.args = node.args[:1]


def _drop(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    if any(user.op == "output" for user in node.users):
        # The program's signature knows its outputs by name, so this one stays, as a cast to the dtype it has.
        _cast(node)
        return
    node.replace_all_uses_with(_operand(node))
    graph.erase_node(node)


def _works_in_place(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _make_value(node: torch.fx.Node) -> None:
    """x.op_(y) -> op(x, y), read by all who would have read x afterwards; only where nobody shares x's memory."""
    target: Any = node.target
    changed = _operand(node)
    packet = getattr(aten, target.overloadpacket.__name__.removesuffix("_"), None)
    plain = getattr(packet, target._overloadname, None)
    if plain is None or _is_view(changed) or any(_is_view(user) for user in changed.users):
        raise NotImplementedError(f"{target} works in place on memory that others may read")
    node.target = plain
    if plain in ARITHMETIC:
        _as_wide_as(changed, node)
    after = {later for later in _following(node) if later in changed.users}
    changed.replace_all_uses_with(node, delete_user_cb=after.__contains__)


def _views(node: torch.fx.Node) -> list[Any]:
    """What a write goes through: slices and elements, from the innermost to what is a value of its own."""
    chain = [_operand(node)]
    while chain[-1].target in VIEWS:
        chain.append(_operand(chain[-1]))
    return chain


def _wholly_written(node: torch.fx.Node) -> Any | None:
    """The value of which x[...] = y writes all there is, as a loop over a single token fills its results."""
    *views, changed = _views(node)
    before = set(changed.users).difference(_following(node))
    if not views or _is_view(changed) or before != {views[-1]} or any(len(view.users) > 1 for view in views):
        return None
    is_whole = all(map(_keeps_all, views)) and _are_equal(_sizes(node.args[1]), _sizes(views[0]))
    return changed if is_whole else None


def _keeps_all(view: Any) -> bool:
    whole, own = _sizes(_operand(view)), _sizes(view)
    if view.target is aten.select.int:
        own.insert(_selected(view), 1)
    return _are_equal(own, whole)


def _selected(view: Any) -> int:
    return range(len(_sizes(_operand(view))))[view.args[1]]


def _sizes(node: Any) -> list[Any]:
    return list(node.meta["val"].shape)


def _are_equal(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(
        statically_known_true(one == other) for one, other in zip(some, others, strict=True)
    )


def _overwrite(graph: torch.fx.Graph, node: torch.fx.Node, changed: Any) -> None:
    """x[:, :, 0] = y -> y with the axes of one element that x has, read by all who would have read x afterwards."""
    value: Any = node.args[1]
    for view in (view for view in _views(node) if view.target is aten.select.int):
        value = _called(node, aten.unsqueeze.default, (value, _selected(view)))
    value = _called(node, aten._to_copy.default, (value,), dtype=_dtype(changed))
    after = {later for later in _following(node) if later in changed.users}
    changed.replace_all_uses_with(value, delete_user_cb=after.__contains__)
    graph.erase_node(node)


def _called(where: torch.fx.Node, target: Any, args: tuple[Any, ...], **kwargs: Any) -> Any:
    """A node before `where`, in the same module."""
    with where.graph.inserting_before(where):
        made = where.graph.call_function(target, args, kwargs)
    value, *more = args
    made.meta.update({**where.meta, "val": target(value.meta["val"], *more, **kwargs)})
    return made


def _as_wide_as(changed: Any, node: torch.fx.Node) -> None:
    """In place, the result has the dtype of what is changed: whole numbers become such as those that they meet."""
    other = node.args[1]
    dtype = _dtype(changed)
    if isinstance(other, torch.fx.Node) and dtype.is_floating_point and not _dtype(other).is_floating_point:
        cast = _called(node, aten._to_copy.default, (other,), dtype=dtype)
        node.args = (changed, cast, *node.args[2:])


def _following(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    while (node := node.next).op != "root":
        yield node


def _is_view(node: torch.fx.Node) -> bool:
    """Whether the node's result may share memory with its inputs; inputs of the graph share with everybody."""
    if node.op == "output":
        return False
    if node.target is operator.getitem:
        return _is_view(_operand(node))
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return True
    return any(argument.alias_info is not None and not argument.alias_info.is_write for argument in schema.arguments)
