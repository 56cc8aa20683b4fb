"""x[...] = y in a traced program -> a new value in x's place, read by all who would have read x afterwards.

A write goes through views, slices and elements of something that nobody else shares. That part of it is replaced, and
whoever reads another view of it later reads the same view of the new value.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.symbolic_shapes import statically_known_true

aten = torch.ops.aten

PARTS = frozenset({aten.slice.Tensor, aten.select.int})
# What shares memory always, and not only where that is possible.
VIEWS = PARTS | {
    aten.view.default,
    aten.transpose.int,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.expand.default,
    aten.t.default,
}


def works_in_place(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def is_written(node: torch.fx.Node) -> bool:
    """Whether somebody writes into the node's memory."""
    users = [user for user in node.users if user.op == "call_function"]
    return any(_writes_to(user, node) or (is_view(user) and is_written(user)) for user in users)


def _writes_to(user: torch.fx.Node, node: torch.fx.Node) -> bool:
    return works_in_place(user) and bool(user.args) and user.args[0] is node


def is_view(node: torch.fx.Node) -> bool:
    """Whether the node's result may share memory with its inputs; inputs of the graph share with everybody."""
    if node.op == "output":
        return False
    if node.target is operator.getitem:
        return is_view(operand(node))
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return True
    return any(argument.alias_info is not None and not argument.alias_info.is_write for argument in schema.arguments)


def is_own(node: torch.fx.Node) -> bool:
    """Whether nobody sees the node's memory but through the node: a value, or the only view of one."""
    if not is_view(node):
        return True
    is_plain = node.op == "call_function" and node.target not in PARTS and node.target is not operator.getitem
    return is_plain and len(operand(node).users) == 1 and is_own(operand(node))


def operand(node: torch.fx.Node) -> Any:
    """What the operator works on; fx's own type for it names everything that an argument can be."""
    return node.args[0]


def following(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    while (node := node.next).op != "root":
        yield node


def called(where: torch.fx.Node, target: Any, args: tuple[Any, ...], **kwargs: Any) -> Any:
    """A node before `where`, in the same module."""
    with where.graph.inserting_before(where):
        made = where.graph.call_function(target, args, kwargs)
    with enable_python_dispatcher():  # whose sizes may be symbols
        made.meta.update({**where.meta, "val": target(*map(_meant, args), **kwargs)})
    return made


def _meant(argument: Any) -> Any:
    if isinstance(argument, list | tuple):
        return [_meant(part) for part in argument]
    return argument.meta["val"] if isinstance(argument, torch.fx.Node) else argument


def write(graph: torch.fx.Graph, node: torch.fx.Node, value: Any) -> None:
    """`node` writes `value`, as large as what it writes into, and goes."""
    chain = [operand(node)]
    while not is_own(chain[-1]):
        if chain[-1].target not in PARTS:
            raise NotImplementedError(f"{node.target} works in place on memory that others may read")
        chain.append(operand(chain[-1]))
    value = _in_dtype(node, value, chain[0].meta["val"].dtype)
    for view in chain[:-1]:
        value = _with_part(node, view, value)
    new, later = {chain[-1]: value}, set(following(node))
    for alias in _aliases(chain[-1], node):
        if alias is chain[0] or not later.isdisjoint(alias.users):
            if alias.target not in VIEWS:
                raise NotImplementedError(f"{alias.target} may be a copy of what {node.target} changed, or a view")
            new[alias] = _again(graph, node, alias, new)
    for old, made in new.items():
        old.replace_all_uses_with(made, delete_user_cb=later.__contains__)
    node.replace_all_uses_with(new[chain[0]])
    graph.erase_node(node)


def as_large(node: torch.fx.Node, value: Any) -> Any:
    """`value` as often as it takes to be written over all of what `node` writes into."""
    sizes = _sizes(operand(node))
    if _are_equal(_sizes(value), sizes):
        return value
    if not all(isinstance(size, int) for size in sizes):
        raise NotImplementedError(f"{node.target} repeats a value as often as a text is long")
    return called(node, aten.expand.default, (value, sizes))


def _in_dtype(node: torch.fx.Node, value: Any, dtype: torch.dtype) -> Any:
    return value if value.meta["val"].dtype == dtype else called(node, aten._to_copy.default, (value,), dtype=dtype)


def _aliases(base: torch.fx.Node, until: torch.fx.Node) -> list[torch.fx.Node]:
    """Views of a value that are taken before a node, in their order."""
    seen: dict[torch.fx.Node, None] = {base: None}
    for node in following(base):
        if node is until:
            break
        if is_view(node) and any(one in seen for one in node.all_input_nodes):
            seen[node] = None
    return list(seen)[1:]


def _again(graph: torch.fx.Graph, node: torch.fx.Node, alias: torch.fx.Node, new: dict[Any, Any]) -> Any:
    """The same view of the new value, and the views between them."""
    for whole in alias.all_input_nodes:
        if whole not in new and is_view(whole) and whole.op == "call_function":
            new[whole] = _again(graph, node, whole, new)
    with graph.inserting_before(node):
        return graph.node_copy(alias, lambda old: new.get(old, old))


def _with_part(node: torch.fx.Node, view: Any, value: Any) -> Any:
    """All of what a view is taken from, with `value` in the view's place."""
    whole = operand(view)
    axis = range(len(_sizes(whole)))[view.args[1] if len(view.args) > 1 else 0]
    if view.target is aten.select.int:
        value = called(node, aten.unsqueeze.default, (value, axis))
    if _are_equal(_sizes(value), _sizes(whole)):
        return value
    size, (start, stop, step) = _sizes(whole)[axis], _bounds(view)
    if step != 1 or not all(isinstance(bound, int | None) for bound in (size, start, stop)):
        return called(node, aten.slice_scatter.default, (whole, value, axis, start, stop, step))
    start, stop, _ = slice(start, stop).indices(size)
    before = [called(node, aten.slice.Tensor, (whole, axis, 0, start))] if start else []
    behind = [called(node, aten.slice.Tensor, (whole, axis, stop, size))] if stop < size else []
    return called(node, aten.cat.default, ([*before, value, *behind], axis))


def _bounds(view: Any) -> tuple[Any, Any, int]:
    if view.target is aten.select.int:
        index = view.args[2]
        return index, (None if index == -1 else index + 1), 1
    given = list(view.args[2:])
    start, stop, step = given + [None, None, 1][len(given) :]
    return start, stop, step


def _sizes(node: Any) -> list[Any]:
    return list(node.meta["val"].shape)


def _are_equal(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(
        statically_known_true(one == other) for one, other in zip(some, others, strict=True)
    )
