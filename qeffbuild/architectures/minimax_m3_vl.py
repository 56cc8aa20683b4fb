"""Keys of the indexer, kept by position: whole blocks of them, and some behind the text's, that nobody sees."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLIndexer

from qeffbuild.export.cache import of_all

OWN = MiniMaxM3VLIndexer.forward


def indexer(self: Any, hidden_states: Any, position_embeddings: Any, past_key_values: Any, position_ids: Any) -> Any:
    if past_key_values is not None:
        past_key_values.layers[self.layer_idx].block_size = self.block_size
    return OWN(self, hidden_states, position_embeddings, past_key_values, position_ids)


def whole_blocks(self: Any, idx_k: torch.Tensor) -> torch.Tensor:
    """idx_k [B,1,S,D] of new tokens -> those of all tokens, as many as whole blocks have."""
    self.idx_keys = of_all(self, self.idx_keys, idx_k)
    tokens = self.idx_keys.shape[2]
    return F.pad(self.idx_keys, (0, 0, 0, (tokens // self.block_size + 1) * self.block_size - tokens))


REPLACED = {
    "MiniMaxM3VLIndexer.forward": indexer,
    "MiniMaxM3VLSparseCacheLayer.update_index": whole_blocks,
}
