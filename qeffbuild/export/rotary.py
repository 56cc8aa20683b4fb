"""Rotary tables that depend on the length of the text: chosen by value, where transformers writes into a buffer."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


@contextlib.contextmanager
def chosen_tables(model: nn.Module) -> Iterator[None]:
    """Inside the block, each row of a longrope model takes its long table once it is past the original context."""
    replaced: list[Any] = []
    for module in _with_long_tables(model):
        module.forward = _long_or_short(module)
        replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def add_long_tables(model: nn.Module) -> None:
    """Make the long table a buffer from the start, as the short one is: transformers works it out when it is needed."""
    for module in _with_long_tables(model):
        limit = module.config.rope_parameters["original_max_position_embeddings"]
        long, _ = ROPE_INIT_FUNCTIONS["longrope"](module.config, torch.device("cpu"), seq_len=limit + 1)
        module.register_buffer("long_inv_freq", long, persistent=False)


def _with_long_tables(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if getattr(module, "rope_type", None) == "longrope" and hasattr(module, "original_inv_freq"):
            yield module


def _long_or_short(module: Any) -> Callable[..., Any]:
    limit = module.config.rope_parameters["original_max_position_embeddings"]
    plain = inspect.unwrap(type(module).forward)

    def forward(x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        is_long = position_ids.amax(dim=1) >= limit
        table = torch.where(is_long[:, None, None], module.long_inv_freq, module.original_inv_freq)
        return plain(SimpleNamespace(inv_freq=table, attention_scaling=module.attention_scaling), x, position_ids)

    return forward
