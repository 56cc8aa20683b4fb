"""Full-length state tensors -> a transformers Cache whose layers scatter new tokens at their true positions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from qeffbuild.export.ops import ctx_scatter
from qeffbuild.export.states import CacheForm, StateSpec


class RetainedLayer(CacheLayerMixin):
    """One layer's buffers. Windows and chunks are the mask's business: every layer keeps all of the context."""

    keys: Any  # None in a layer that keeps other states only
    values: torch.Tensor
    is_compileable = True
    supports_early_init = False

    def __init__(self, cache: RetainedCache, *, is_sliding: bool) -> None:
        super().__init__()
        self.cache = cache
        self.is_sliding = is_sliding
        self.is_initialized = True
        self.indexer_keys: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """The buffers are there from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions = self.cache.position_ids
        self.keys = ctx_scatter(self.keys, positions, key_states)
        self.values = ctx_scatter(self.values, positions, value_states)
        return self.keys, self.values

    def update_indexer(self, indexer_key_states: torch.Tensor) -> torch.Tensor:
        """The keys of a sparse-attention indexer, [batch, tokens, width]: one head of a cache."""
        assert self.indexer_keys is not None
        cache, updates = self.indexer_keys[:, None], indexer_key_states[:, None]
        self.indexer_keys = ctx_scatter(cache, self.cache.position_ids, updates)[:, 0]
        return self.indexer_keys

    @property
    def indexer_position_ids(self) -> torch.Tensor:
        """The positions of all slots, [3,batch,context] for time, height and width, before those of new tokens.

        No slot is further than the text, by whose length a table of angles may be chosen.
        """
        positions = torch.minimum(torch.arange(self.keys.shape[2]), self.cache.position_ids.amax(1, keepdim=True))
        return positions.clamp(min=0).expand(3, *positions.shape)

    @indexer_position_ids.setter
    def indexer_position_ids(self, position_ids: torch.Tensor | None) -> None:
        """A slot's position is its number: there is nothing to keep."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self) -> Any:
        return self.cache.past_len

    def get_max_length(self) -> int:
        return self.keys.shape[2]


def of_all(layer: Any, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """What a family's own layer keeps of each token; of one that is not retained, that of the `new` ones alone."""
    return ctx_scatter(held, layer.cache.position_ids, new) if isinstance(layer, RetainedLayer) else new


class RecurrentLayer(RetainedLayer, LinearAttentionLayer):
    """A layer whose module carries states from token to token, and that may keep keys and values as well."""

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """The states are there from the start."""


def carried(cache: Cache, layer: int, like: torch.Tensor, state: int = 0) -> torch.Tensor:
    """What the layer carries from the token before; zeros `like` what it will carry, before the first of all."""
    held = cache.get_recurrent_state(layer, state)
    return torch.zeros_like(like) if held is None else held


class CarryingCache(Cache):
    """A cache of nothing but carried states, so many in each layer, for families that have no Cache of their own."""

    def __init__(self, layers: int, states: int = 1) -> None:
        super().__init__(layers=[LinearAttentionLayer(number_of_states=states) for _ in range(layers)])


@contextlib.contextmanager
def keeping(modules: Sequence[Any], cache: Cache | None) -> Iterator[None]:
    """Inside the block `kept` of each module is the cache and its layer there, for families that hand on no cache."""
    for layer, module in enumerate(modules):
        module.kept = cache, layer
    try:
        yield
    finally:
        for module in modules:
            del module.kept


class RetainedCache(Cache):
    """The model's cache during a trace. `position_ids` are read back by the mask as the offset of each query."""

    position_ids: torch.Tensor
    past_len: Any

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return self.position_ids

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return self.past_len

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        chosen = [self.layers[layer_idx], *self.layers]
        keeping = (layer for layer in chosen if isinstance(layer, RetainedLayer) and layer.keys is not None)
        layer = next(keeping, None)
        return (query_length, 0) if layer is None else layer.get_mask_sizes(query_length)


def retained_cache(
    form: CacheForm, states: Sequence[torch.Tensor], position_ids: torch.Tensor, past_len: int | None
) -> RetainedCache:
    """A cache of the form's class and layers over `states`, in the form's order.

    `past_len` is a constant for models that only slice by it; None takes the first row's first position.
    """
    cache = _class_like(form.cache_class)()
    cache.position_ids = position_ids
    cache.past_len = position_ids[0, 0].clamp(min=0) if past_len is None else past_len
    cache.layers = [_layer_like(layer, cache) for layer in form.layers]
    for spec, tensor in zip(form.states, states, strict=True):
        spec.write(cache.layers, tensor)
    return cache


def flat_states(cache: RetainedCache, specs: Sequence[StateSpec]) -> tuple[torch.Tensor, ...]:
    return tuple(spec.read(cache.layers) for spec in specs)


def _class_like(cache_class: type[Cache]) -> Any:
    """A model that insists on its own Cache class is given a subclass of it."""

    def __init__(self: RetainedCache) -> None:
        Cache.__init__(self, layers=[])

    bases = (RetainedCache,) if cache_class in (Cache, DynamicCache) else (RetainedCache, cache_class)
    return type("Retained" + cache_class.__name__, bases, {"__init__": __init__})


def _layer_like(layer: Any, cache: RetainedCache) -> Any:
    if isinstance(layer, DummyLayer):
        return DummyLayer()
    is_sliding = bool(getattr(layer, "is_sliding", False))
    if type(layer).__module__ != CacheLayerMixin.__module__:
        return _with_its_methods(layer, cache, is_sliding=is_sliding)
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        return RetainedLayer(cache, is_sliding=is_sliding)
    made = RecurrentLayer.__new__(RecurrentLayer)
    LinearAttentionCacheLayerMixin.__init__(made, layer.number_of_states)
    RetainedLayer.__init__(made, cache, is_sliding=is_sliding)
    made.keys = None
    for name in ("is_conv_states_initialized", "is_recurrent_states_initialized", "conv_kernel_size"):
        setattr(made, name, dict(getattr(layer, name)))
    made.has_previous_state = dict.fromkeys(range(layer.number_of_states), True)
    return made


def _with_its_methods(layer: Any, cache: RetainedCache, *, is_sliding: bool) -> Any:
    """A layer of a family's own kind, which its modeling file asks for more than keys and values."""
    own = type(layer)
    # (By `_layer_type` transformers would take this class for its own caches.)
    kind: Any = type(f"Retained{own.__name__}", (RetainedLayer, own), {"_layer_type": None})
    made = kind.__new__(kind)
    vars(made).update({name: _emptied(value) for name, value in vars(layer).items()})
    made.cache, made.is_sliding, made.is_initialized = cache, is_sliding, True
    return made


def _emptied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _emptied(item) for key, item in value.items()}
    return None if isinstance(value, torch.Tensor) else value
