"""Modules that carry a state from token to token, run one token at a time: in a loop, or once between marks.

A self-check runs the loop. A trace runs the module once, on one token that stands for all, and marks where the loop
begins and ends (`ops.token`, `state_in`, `state_out`, `tokens`); a backend makes of the marks what it can.
A token at position 0 finds zeroed states, so nothing is wiped between texts; one below 0 leaves them as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._pytree import tree_map

from qeffbuild.export.cache import RetainedCache
from qeffbuild.export.ops import state_in, state_out, token, tokens
from qeffbuild.export.states import CacheForm, Loop


@contextlib.contextmanager
def token_by_token(model: nn.Module, form: CacheForm, cache: RetainedCache) -> Iterator[None]:
    """Inside the block, the modules that carry states of `cache` see one token at a time."""
    replaced = []
    for loop in form.loops:
        module = model.get_submodule(loop.path)
        module.forward = _looped(module.forward, loop, cache)
        replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _looped(plain: Callable[..., Any], loop: Loop, cache: RetainedCache) -> Callable[..., Any]:
    def step(positions: torch.Tensor, whole: torch.Tensor, args: Any, kwargs: Any) -> Any:
        """One token of each row, at `positions` of `whole`; the states in the cache are replaced."""
        before = [spec.read(cache.layers) for spec in loop.states]
        for spec, state in zip(loop.states, before, strict=True):
            spec.write(cache.layers, state_in(state, positions))
        cache.position_ids = token(whole) if positions is whole else positions
        out = plain(*args, **kwargs)
        cache.position_ids = whole
        for spec, state in zip(loop.states, before, strict=True):
            spec.write(cache.layers, state_out(state, spec.read(cache.layers), positions))
        return out

    def forward(*args: Any, **kwargs: Any) -> Any:
        positions = cache.position_ids
        if isinstance(positions.shape[1], torch.SymInt):  # a trace: any number of tokens
            args, kwargs = _each(lambda tensor: token(tensor), (args, kwargs), positions.shape[1])
            return _each(lambda tensor: tokens(tensor, positions), step(positions, positions, args, kwargs), 1)
        outs = []
        for at in range(positions.shape[1]):
            one = slice(at, at + 1)
            one_args, one_kwargs = _each(_cut_to(one), (args, kwargs), positions.shape[1])
            outs.append(step(positions[:, one], positions, one_args, one_kwargs))
        return _joined(outs)

    return forward


def each_token(one: Callable[..., torch.Tensor], *wholes: torch.Tensor) -> torch.Tensor:
    """one(a token of each of wholes[B,S,...]) for each token, in their order -> all results [B,S,...].

    For families that are to carry states in the cache: between the marks of a trace there is one token.
    """
    return torch.cat([one(*(whole[:, at : at + 1] for whole in wholes)) for at in range(wholes[0].shape[1])], dim=1)


def _cut_to(one: slice) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor[:, one]


def _each(change: Callable[[torch.Tensor], torch.Tensor], tree: Any, length: int | torch.SymInt) -> Any:
    """The same tree, with every tensor changed whose second axis runs over the tokens."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.dim() > 1 and statically_known_true(leaf.shape[1] == length):
            return change(leaf)
        return leaf

    return tree_map(one, tree)


def _joined(outs: list[Any]) -> Any:
    """The outputs of all tokens as one."""
    first = outs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(outs, dim=1)
    if isinstance(first, tuple):
        return tuple(_joined([out[index] for out in outs]) for index in range(len(first)))
    return first
