"""Rotary tables that depend on the length of the text: chosen by value, where transformers branches or writes a buffer.

Two kinds do: `longrope` takes another table behind the original context, `dynamic` stretches the table as a text grows.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

# The table of each row, from the module, a prefix of its attributes, its settings and the rows' lengths.
Choose = Callable[[Any, str, Any, torch.Tensor], torch.Tensor]


@contextlib.contextmanager
def chosen_tables(model: nn.Module) -> Iterator[None]:
    """Inside the block, each row takes the table for its own length so far."""
    replaced: list[Any] = []
    for module in model.modules():
        if any(kind in CHOOSERS for _, kind in _kinds(module)):
            module.forward = _by_length(module)
            replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def add_long_tables(model: nn.Module) -> None:
    """Make the long table a buffer from the start, as the short one is: transformers works it out when it is needed."""
    for module in model.modules():
        for layer_type, kind in _kinds(module):
            if kind == "longrope":
                limit = _settings(module, layer_type)["original_max_position_embeddings"]
                make = ROPE_INIT_FUNCTIONS["longrope"]
                long, _ = make(module.config, torch.device("cpu"), seq_len=limit + 1, layer_type=layer_type)
                name = f"{_prefix(layer_type)}long_inv_freq"
                vars(module).pop(name, None)
                module.register_buffer(name, long, persistent=False)


def _kinds(module: nn.Module) -> Iterator[tuple[str | None, str]]:
    """The rope types of a rotary module by type of layer; None where it has one for all."""
    said: Any = getattr(module, "rope_type", None)
    if not hasattr(module, "config"):
        return
    if isinstance(said, str) and hasattr(module, "original_inv_freq"):
        yield None, said
    elif isinstance(said, dict):
        yield from said.items()


def _prefix(layer_type: str | None) -> str:
    return "" if layer_type is None else f"{layer_type}_"


def _settings(module: Any, layer_type: str | None) -> Any:
    said = module.config.rope_parameters
    return said if layer_type is None else said[layer_type]


def _by_length(module: Any) -> Callable[..., Any]:
    plain = inspect.unwrap(type(module).forward)
    kinds = dict(_kinds(module))

    def forward(x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Any:
        arguments = {} if layer_type is None else {"layer_type": layer_type}
        choose = CHOOSERS.get(kinds[layer_type])
        if choose is None:
            return plain(module, x, position_ids, **arguments)
        lengths = (position_ids.amax(dim=-1) + 1)[..., None, None]  # also of time, height and width
        table = choose(module, _prefix(layer_type), _settings(module, layer_type), lengths)
        return plain(_Instead(module, f"{_prefix(layer_type)}inv_freq", table), x, position_ids, **arguments)

    return forward


def _long_or_short(module: Any, prefix: str, settings: Any, lengths: torch.Tensor) -> torch.Tensor:
    is_long = lengths > settings["original_max_position_embeddings"]
    tables = getattr(module, f"{prefix}long_inv_freq"), getattr(module, f"{prefix}original_inv_freq")
    return torch.where(is_long, *tables)


def _stretched(module: Any, prefix: str, settings: Any, lengths: torch.Tensor) -> torch.Tensor:
    """base s^(d / (d - 2)) in place of base: the i-th of d / 2 frequencies becomes s^(-2 i / (d - 2)) times itself."""
    table = getattr(module, f"{prefix}original_inv_freq")
    factor, limit, width = settings["factor"], module.config.max_position_embeddings, 2 * len(table)
    stretch = factor * lengths.clamp(min=limit).float() / limit - (factor - 1)
    return table * stretch ** (-2 * torch.arange(len(table)) / (width - 2))


CHOOSERS: dict[str, Choose] = {"longrope": _long_or_short, "dynamic": _stretched}


class _Instead:
    """A module with another table, to those who only read it."""

    def __init__(self, module: Any, name: str, table: torch.Tensor) -> None:
        self.__dict__.update(module=module, name=name, table=table)

    def __getattr__(self, name: str) -> Any:
        return self.table if name == self.name else getattr(self.module, name)
