"""True positions for modules that would count them from the length of the past."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from qeffbuild.export.states import accepts


@contextlib.contextmanager
def true_positions(model: nn.Module, positions: torch.Tensor) -> Iterator[None]:
    """Inside the block every submodule that takes position_ids and was given none gets `positions`.

    A position table gets them in any case: what its caller counted is wrong for ragged rows.
    """
    if accepts(model, "position_ids"):
        yield
        return
    hooks, replaced = [], []
    for name, module in model.named_modules():
        if not name or not accepts(module, "position_ids"):
            continue
        if isinstance(module, nn.Embedding) and hasattr(module, "offset"):
            module.forward = _offset_table(module, positions)  # type: ignore[method-assign]
            replaced.append(module)
            continue
        hooks.append(module.register_forward_pre_hook(_hand_in(module, positions), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in replaced:
            del module.forward


def padding_offset(model: nn.Module) -> int:
    """Where the position table of the RoBERTa family begins: after the padding index; 0 where nobody pads."""
    indices = [getattr(module, "padding_idx", None) for module in model.modules()]
    return min([index for index in indices if index is not None], default=-1) + 1


def _offset_table(table: Any, positions: torch.Tensor) -> Callable[..., torch.Tensor]:
    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        return nn.functional.embedding(positions + table.offset, table.weight)

    return forward


def _hand_in(module: nn.Module, positions: torch.Tensor) -> Callable[..., Any]:
    place = list(inspect.signature(module.forward).parameters).index("position_ids")
    is_table = isinstance(module, nn.Embedding)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if len(args) > place:
            if args[place] is None or is_table:
                args = (*args[:place], positions, *args[place + 1 :])
        elif kwargs.get("position_ids") is None or is_table:
            kwargs = {**kwargs, "position_ids": positions}
        return args, kwargs

    return before


def bias_by_distance(self: Any, states: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """states[B,S,H,R] times a module's bank of biases [R,extent], at each distance of S queries from T keys [B,H,S,T].

    With a retained cache `queries` are [B,S], the true positions to which the family adds each token's number.
    """
    if queries.dim() == 2:
        queries = queries - torch.arange(queries.shape[1])
    distance = (queries[..., :, None] - keys[None, :]).reshape(-1, 1, states.shape[1], keys.shape[0])
    biases = (states @ self.proj).transpose(1, 2)
    places = distance.clamp(0, self.rel_extent - 1).expand(*biases.shape[:2], -1, -1)
    is_near = (distance >= 0) & (distance < self.rel_extent)
    return biases.gather(-1, places).masked_fill(~is_near, 0.0)
