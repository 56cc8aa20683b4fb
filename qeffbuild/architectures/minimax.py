"""States of lightning attention in the cache where transformers' other linear attentions keep theirs."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, LinearAttentionLayer


class LinearCache(DynamicCache):
    """Layers are added in order, as the model first writes them: it keeps its linear states in a list beside."""

    def set_linear_cache(self, layer_idx: int, linear_cache: torch.Tensor) -> None:
        while len(self.layers) <= layer_idx:
            self.layers.append(LinearAttentionLayer() if len(self.layers) == layer_idx else DynamicLayer())
        self.update_recurrent_state(linear_cache, layer_idx)

    def get_linear_cache(self, layer_idx: int) -> torch.Tensor | None:
        if layer_idx >= len(self.layers):
            return None
        return self.get_recurrent_state(layer_idx)


REPLACED = {"MiniMaxCache": LinearCache}
