"""A model's own cache, as two small forwards leave it -> every piece of retained state, with its axes.

Nothing is listed by hand: an axis that doubles with the batch is the batch, one that grows otherwise is the context.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, EncoderDecoderCache

from qeffbuild.signature import State

KINDS = {"keys": "key", "values": "value", "conv_states": "conv", "recurrent_states": "recurrent", "tokens": "token"}

# How a model reaches the states that it carries from token to token: method of the cache -> attribute, place of layer.
CARRIERS = {
    "get_conv_state": ("conv_states", 0),
    "get_recurrent_state": ("recurrent_states", 0),
    "update_conv_state": ("conv_states", 1),
    "update_recurrent_state": ("recurrent_states", 1),
}


class NoStates(Exception):
    """The model keeps its past in a way that the probe cannot see; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpec:
    """One tensor of the cache. `shape` is that of one row; `ctx_axis` is None for a state that is replaced whole.

    `index` is its key where a layer keeps several under one name, else None.
    """

    layer: int
    attribute: str
    index: int | str | None = None
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
        among = f"_{self.index}" if isinstance(self.index, str) else self.index or ""
        return f"past_{self.kind}{among}.{self.layer}"

    def read(self, layers: Sequence[Any]) -> torch.Tensor:
        held = getattr(layers[self.layer], self.attribute)
        return held if self.index is None else held[self.index]

    def write(self, layers: Sequence[Any], tensor: torch.Tensor) -> None:
        if self.index is None:
            setattr(layers[self.layer], self.attribute, tensor)
        else:
            getattr(layers[self.layer], self.attribute)[self.index] = tensor

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
            dtype=dtype_name(self.dtype),
            axes=tuple(axes),
            layer=self.layer,
            kind=self.kind,
            window=self.window,
            positional=self.ctx_axis is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A module, by its path, that carries `states` from token to token."""

    path: str
    states: tuple[StateSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheForm:
    """What the model's cache is made of: its class, its layers as the model left them, and their tensors."""

    cache_class: type[Cache]
    layers: tuple[Any, ...]
    states: tuple[StateSpec, ...]
    loops: tuple[Loop, ...] = ()


def text_kept() -> CacheForm:
    """The form for a model whose cache is of no use: all that is kept is the text, [batch, context, 1]."""
    tokens = StateSpec(
        layer=0, attribute="tokens", shape=(1, 1, 1), dtype=torch.long, batch_axis=0, ctx_axis=1, window=None
    )
    return CacheForm(cache_class=Cache, layers=(), states=(tokens,))


def cache_name(model: nn.Module) -> str:
    """Models whose whole past is carried from token to token have other words for their cache."""
    return next((name for name in ("past_key_values", "cache_params", "state") if accepts(model, name)), "cache_params")


def dtype_name(dtype: torch.dtype) -> str:
    """As signatures and specs have it: bfloat16."""
    return str(dtype).removeprefix("torch.")


def accepts(module: nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


@torch.no_grad()
def probe(model: nn.Module) -> CacheForm:
    """Run the model at (batch, tokens) = (1, 3) and (2, 5) and compare the caches that come back."""
    with _lengths_of_all():
        with watched(model) as users:
            base = _cache_after(model, 1, 3)
        grown = _cache_after(model, 2, 5)
    states = []
    for index, layer in enumerate(base.layers):
        for name, key, tensor in _tensors(layer):
            other = getattr(grown.layers[index], name)
            spec = _compare(index, name, tensor, other if key is None else other[key])
            if spec is not None:
                states.append(replace(spec, index=key, window=_window(layer)))
    if not states:
        raise NoStates("the cache that the model returns holds no tensors")
    return CacheForm(
        cache_class=type(base), layers=tuple(base.layers), states=tuple(states), loops=tuple(_loops(states, users))
    )


def _loops(states: Sequence[StateSpec], users: Mapping[tuple[str, int, int], str]) -> Iterator[Loop]:
    """Each module with the states that it alone uses and that are replaced whole."""
    by_path: dict[str, list[StateSpec]] = {}
    for spec in states:
        if not isinstance(spec.index, int):
            continue
        user = users.get((spec.attribute, spec.layer, spec.index))
        if user is None:
            raise NoStates(f"layer {spec.layer} of the cache keeps {spec.attribute} in a way of its own")
        by_path.setdefault(user, []).append(spec)
    yield from (Loop(path=path, states=tuple(specs)) for path, specs in by_path.items())


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[dict[tuple[str, int, int], str]]:
    """Inside the block: (attribute, layer, index) of a recurrent state -> the module that reads and writes it."""
    names = {module: name for name, module in model.named_modules()}
    running: list[str] = []
    users: dict[tuple[str, int, int], str] = {}

    def note(attribute: str, layer: int, index: int) -> None:
        known = users.setdefault((attribute, layer, index), running[-1])
        shared = zip(known.split("."), running[-1].split("."), strict=False)
        users[attribute, layer, index] = ".".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], shared))

    def noting(attribute: str, plain: Any, place: int) -> Any:
        def method(cache: Cache, *args: Any, **kwargs: Any) -> Any:
            layer = kwargs["layer_idx"] if "layer_idx" in kwargs else args[place]
            index = kwargs.get("state_idx", args[place + 1] if len(args) > place + 1 else 0)
            note(attribute, layer, index)
            return plain(cache, *args, **kwargs)

        return method

    plain = {name: getattr(Cache, name) for name in CARRIERS}
    pushed = register_module_forward_pre_hook(lambda module, args: running.append(names.get(module, "")))
    popped = register_module_forward_hook(lambda module, args, out: _nothing(running.pop()), always_call=True)
    for name, (attribute, place) in CARRIERS.items():
        setattr(Cache, name, noting(attribute, plain[name], place))
    try:
        yield users
    finally:
        for name, method in plain.items():
            setattr(Cache, name, method)
        pushed.remove()
        popped.remove()


@contextlib.contextmanager
def _lengths_of_all() -> Iterator[None]:
    """Inside the block, a cache of nothing but carried states says how long the text is, too.

    Models with some layers of attention ask for it, and so do those of their configurations that have none.
    """
    own_length, own_sizes = Cache.get_seq_length, Cache.get_mask_sizes

    def has_keys(cache: Cache) -> bool:
        return any(isinstance(layer, CacheLayerMixin) for layer in cache.layers)

    def length(cache: Cache, layer_idx: int = 0) -> Any:
        return own_length(cache, layer_idx) if has_keys(cache) else 0

    def sizes(cache: Cache, query_length: int, layer_idx: int = 0) -> Any:
        return own_sizes(cache, query_length, layer_idx) if has_keys(cache) else (query_length, 0)

    Cache.get_seq_length, Cache.get_mask_sizes = length, sizes  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Cache.get_seq_length, Cache.get_mask_sizes = own_length, own_sizes  # type: ignore[method-assign]


def _cache_after(model: Any, batch: int, tokens: int) -> Cache:
    arguments: dict[str, Any] = {"input_ids": torch.ones(batch, tokens, dtype=torch.long), "use_cache": True}
    if accepts(model, "position_ids"):
        arguments["position_ids"] = torch.arange(tokens)[None].expand(batch, tokens)
    cache = getattr(model(**arguments), cache_name(model), None)
    if cache is None and accepts(model, "past_key_values"):  # some fill what they are given, and return nothing
        cache = DynamicCache(config=model.config)
        model(**arguments, past_key_values=cache)
    if cache is None:
        raise NoStates("the model returns no key-value cache")
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    if not isinstance(cache, Cache):
        raise NoStates(f"the model's cache is a {type(cache).__name__}, not transformers' Cache")
    return cache


def _tensors(layer: Any) -> Iterator[tuple[str, int | str | None, torch.Tensor]]:
    """Each tensor that a layer of the cache holds, with its key where it holds several under one name."""
    for name, value in vars(layer).items():
        if name == "indexer_position_ids":  # which a context of true positions has by itself
            continue
        if isinstance(value, torch.Tensor) and value.dim() > 0:
            yield name, None, value
        elif isinstance(value, dict):
            yield from ((name, key, item) for key, item in value.items() if isinstance(item, torch.Tensor))


def _compare(layer: int, name: str, base: torch.Tensor, grown: torch.Tensor) -> StateSpec | None:
    sizes = list(enumerate(zip(base.shape, grown.shape, strict=True)))
    batch_axis = next((axis for axis, (one, two) in sizes if two == 2 * one), None)
    if batch_axis is None:
        return None
    # Three tokens become five, or fewer where a window is full: never twice as many.
    grows = next((axis for axis, (one, two) in sizes if two not in (one, 2 * one)), None)
    # A window shorter than the probe hides the growth of keys and values; their layout is fixed by transformers.
    ctx_axis = 2 if name in ("keys", "values") else grows
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


def _nothing(_: Any) -> None:
    """A hook that returns something would replace the module's output."""
