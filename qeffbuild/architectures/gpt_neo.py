"""Attention by the positions of tokens, in place of a table of masks that is cut by the lengths of past and text."""

from __future__ import annotations

from typing import Any

import torch
from transformers.masking_utils import sliding_window_causal_mask_function
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from qeffbuild.export.cache import RetainedCache
from qeffbuild.export.interfaces import mask_at_positions
from qeffbuild.export.ops import attention

OWN = GPTNeoSelfAttention.forward


def forward(
    self: Any, hidden_states: torch.Tensor, attention_mask: Any = None, layer_past: Any = None, **kwargs: Any
) -> Any:
    if not isinstance(layer_past, RetainedCache) or attention_mask.dtype != torch.bool:
        return OWN(self, hidden_states, attention_mask, layer_past, **kwargs)
    projections = (self.q_proj, self.k_proj, self.v_proj)
    query, key, value = (self._split_heads(p(hidden_states), self.num_heads, self.head_dim) for p in projections)
    key, value = layer_past.update(key, value, self.layer_id)
    if self.attention_type == "local":
        sees = sliding_window_causal_mask_function(self.config.window_size)
        attention_mask = mask_at_positions(layer_past.position_ids, key.shape[2], sees, None)
    out = attention(query, key, value, attention_mask, 1.0, 0.0)
    return self.out_proj(out.flatten(2)), None


REPLACED = {"GPTNeoSelfAttention.forward": forward}
