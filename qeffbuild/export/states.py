"""A model's own cache, as two small forwards leave it -> every piece of retained state, with its axes.

Nothing is listed by hand: an axis that doubles with the batch is the batch, one that grows otherwise is the context.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, EncoderDecoderCache, LinearAttentionCacheLayerMixin

from qeffbuild.signature import State

KINDS = {"keys": "key", "values": "value"}


class NoStates(Exception):
    """The model keeps its past in a way that the probe cannot see; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpec:
    """One tensor of the cache. `shape` is that of one row; `ctx_axis` is None for a state that is replaced whole."""

    layer: int
    attribute: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    batch_axis: int
    ctx_axis: int | None
    window: int | None

    @property
    def kind(self) -> str:
        return KINDS.get(self.attribute, self.attribute)

    @property
    def name(self) -> str:
        return f"past_{self.kind}.{self.layer}"

    @property
    def output(self) -> str:
        # Compilers read a state back only when its output bears the input's name with this suffix.
        return f"{self.name}_RetainedState"

    def on_layer(self, layer: int) -> StateSpec:
        return replace(self, layer=layer)

    def zeros(self, batch: int, ctx_len: int) -> torch.Tensor:
        shape = list(self.shape)
        shape[self.batch_axis] = batch
        if self.ctx_axis is not None:
            shape[self.ctx_axis] = ctx_len
        return torch.zeros(shape, dtype=self.dtype)

    def signed(self) -> State:
        axes: list[int | str] = list(self.shape)
        axes[self.batch_axis] = "batch_size"
        if self.ctx_axis is not None:
            axes[self.ctx_axis] = "ctx_len"
        return State(
            name=self.name,
            output=self.output,
            dtype=str(self.dtype).removeprefix("torch."),
            axes=tuple(axes),
            layer=self.layer,
            kind=self.kind,
            window=self.window,
            positional=self.ctx_axis is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheForm:
    """What the model's cache is made of: its class, its layers as the model left them, and their tensors."""

    cache_class: type[Cache]
    layers: tuple[Any, ...]
    states: tuple[StateSpec, ...]


def accepts(module: nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


@torch.no_grad()
def probe(model: nn.Module) -> CacheForm:
    """Run the model at (batch, tokens) = (1, 3) and (2, 5) and compare the caches that come back."""
    base, grown = _cache_after(model, 1, 3), _cache_after(model, 2, 5)
    states = []
    for index, layer in enumerate(base.layers):
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            raise NoStates(f"layer {index} keeps a recurrent state ({type(layer).__name__})")
        for name, tensor in _tensors(layer):
            spec = _compare(index, name, tensor, getattr(grown.layers[index], name))
            if spec is not None:
                states.append(replace(spec, window=_window(layer)))
    if not states:
        raise NoStates("the cache that the model returns holds no tensors")
    return CacheForm(cache_class=type(base), layers=tuple(base.layers), states=tuple(states))


def _cache_after(model: nn.Module, batch: int, tokens: int) -> Cache:
    arguments: dict[str, Any] = {"input_ids": torch.ones(batch, tokens, dtype=torch.long), "use_cache": True}
    if accepts(model, "position_ids"):
        arguments["position_ids"] = torch.arange(tokens)[None].expand(batch, tokens)
    out = model(**arguments)
    cache = getattr(out, "past_key_values", None)
    if cache is None:
        raise NoStates("the model returns no key-value cache")
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    if not isinstance(cache, Cache):
        raise NoStates(f"the model's cache is a {type(cache).__name__}, not transformers' Cache")
    return cache


def _tensors(layer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in vars(layer).items():
        if isinstance(value, torch.Tensor) and value.dim() > 0:
            yield name, value


def _compare(layer: int, name: str, base: torch.Tensor, grown: torch.Tensor) -> StateSpec | None:
    sizes = list(enumerate(zip(base.shape, grown.shape, strict=True)))
    batch_axis = next((axis for axis, (one, two) in sizes if two == 2 * one), None)
    if batch_axis is None:
        return None
    # Three tokens become five, or fewer where a window is full: never twice as many.
    grows = next((axis for axis, (one, two) in sizes if two not in (one, 2 * one)), None)
    # A window shorter than the probe hides the growth of keys and values; their layout is fixed by transformers.
    ctx_axis = 2 if name in KINDS else grows
    return StateSpec(
        layer=layer,
        attribute=name,
        shape=tuple(base.shape),
        dtype=base.dtype,
        batch_axis=batch_axis,
        ctx_axis=ctx_axis,
        window=None,
    )


def _window(layer: Any) -> int | None:
    return int(layer.sliding_window) if getattr(layer, "is_sliding", False) else None
