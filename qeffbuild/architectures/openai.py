"""Keys and values that are kept, for a family without a cache."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.openai.modeling_openai import Attention, OpenAIGPTLMHeadModel

from qeffbuild.export.cache import RetainedCache, keeping
from qeffbuild.export.interfaces import causal_mask
from qeffbuild.export.ops import attention

MODEL, ATTENTION = OpenAIGPTLMHeadModel.forward, Attention._attn


def model(
    self: Any,
    input_ids: Any = None,
    position_ids: Any = None,
    past_key_values: Any = None,
    use_cache: bool = False,
    **kwargs: Any,
) -> Any:
    with keeping([block.attn for block in self.transformer.h], past_key_values):
        return MODEL(self, input_ids, position_ids=position_ids, **kwargs)


def attend(self: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *more: Any) -> list[torch.Tensor]:
    """k is [B,H,D,S]."""
    cache, layer = self.kept
    if cache is None:
        return ATTENTION(self, q, k, v, *more)
    keys, values = cache.update(k.transpose(2, 3), v, layer)
    if not isinstance(cache, RetainedCache):
        return ATTENTION(self, q, keys.transpose(2, 3), values, *more)
    mask = causal_mask(cache.position_ids, keys.shape[2])
    scale = v.shape[-1] ** -0.5 if self.scale else 1.0
    return [attention(q, keys, values, mask, scale, 0.0).transpose(1, 2)]


REPLACED = {"OpenAIGPTLMHeadModel.forward": model, "Attention._attn": attend}
