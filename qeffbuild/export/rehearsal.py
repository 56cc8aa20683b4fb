"""A stack of layers, run once without weights -> what each is called with, and whose results are read behind the stack.

A tower may choose by a layer's number: which layers attend to all of an image, from which one its features are taken.
No module says so; a run does. Depth costs it little, because nothing is computed: only what derives from what is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """`given` are equal for layers that are called with the same things, beside the result of the one before them."""

    given: tuple[str, ...]
    read: frozenset[int]


def rehearse(stack: nn.ModuleList, run: Callable[[], Sequence[torch.Tensor]]) -> Rehearsal:
    """`run` gives the results of a run whose input asks for gradients: they lead back to the layers."""
    with _noted(stack) as (called, results), torch.enable_grad():
        made = run()
    steps = {step: number for number, found in enumerate(results) for step in found}
    given = [[_said(leaf, number, steps) for leaf in called[number]] for number in range(len(stack))]
    if len(given) > 1:  # what the first layer is given in place of a result is what enters the stack
        for place, (_, later) in enumerate(zip(given[0], given[1], strict=False)):
            given[0][place] = later if later.startswith(_RESULT) else given[0][place]
    return Rehearsal(given=tuple(map(repr, given)), read=frozenset(_reached(made, steps)))


_RESULT = "result"


@contextlib.contextmanager
def _noted(stack: nn.ModuleList) -> Iterator[tuple[list[list[Any]], list[list[Any]]]]:
    """Inside the block: what each layer was called with, and the steps of autograd that gave its results."""
    called: list[list[Any]] = [[] for _ in stack]
    results: list[list[Any]] = [[] for _ in stack]

    def before(number: int) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            called[number] += tree_leaves((args, dict(sorted(kwargs.items()))))

        return note

    def behind(number: int) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, made: Any) -> None:
            results[number] += [leaf.grad_fn for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]

        return note

    with contextlib.ExitStack() as block:
        for number, layer in enumerate(stack):
            hooks = (
                layer.register_forward_pre_hook(before(number), with_kwargs=True),
                layer.register_forward_hook(behind(number)),
            )
            for hook in hooks:
                block.callback(hook.remove)
        yield called, results


def _said(leaf: Any, number: int, steps: dict[Any, int]) -> str:
    if not isinstance(leaf, torch.Tensor):
        return repr(leaf) if isinstance(leaf, int | float | str | bool | type(None)) else f"object {id(leaf)}"
    if leaf.grad_fn is not None and leaf.grad_fn in steps:
        return f"{_RESULT} of {steps[leaf.grad_fn] - number}"
    return f"tensor {id(leaf)}"


def _reached(made: Sequence[torch.Tensor], steps: dict[Any, int]) -> Iterator[int]:
    """The layers that results lead back to before they lead to any other layer."""
    pending, seen = [tensor.grad_fn for tensor in made], set()
    while pending:
        step = pending.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if step in steps:
            yield steps[step]
        else:
            pending += [following for following, _ in step.next_functions]
