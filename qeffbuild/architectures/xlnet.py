"""Keys and values that are kept, in place of hidden states of earlier layers, and biases by true distances."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.xlnet.modeling_xlnet import XLNetLMHeadModel, XLNetModel, XLNetRelativeAttention

from qeffbuild.export.cache import RetainedCache, keeping
from qeffbuild.export.interfaces import causal_mask

MODEL, TABLE = XLNetLMHeadModel.forward, XLNetModel.relative_positional_encoding
ATTENTION = XLNetRelativeAttention.forward


def model(self: Any, input_ids: Any = None, past_key_values: Any = None, use_cache: bool = False, **kwargs: Any) -> Any:
    layers = [layer.rel_attn for layer in self.transformer.layer]
    with keeping([*layers, self.transformer], past_key_values):
        return MODEL(self, input_ids, **kwargs)


def table(self: Any, qlen: int, klen: int, bsz: Any = None, device: Any = None) -> torch.Tensor:
    """What stands for each distance [C,1,D] that there may be in a context."""
    cache, _ = getattr(self, "kept", (None, 0))
    if not isinstance(cache, RetainedCache):
        return TABLE(self, qlen, klen, bsz, device)
    steps, distances = torch.arange(0, self.d_model, 2).float(), torch.arange(cache.get_mask_sizes(qlen)[0]).float()
    if self.clamp_len > 0:
        distances = distances.clamp(max=self.clamp_len)
    return self.positional_embedding(distances, 1 / torch.pow(10000, steps / self.d_model))


def attend(
    self: Any, h: torch.Tensor, g: Any, attn_mask_h: Any, attn_mask_g: Any, r: torch.Tensor, *more: Any, **kwargs: Any
) -> Any:
    """h is [S,B,D]."""
    cache, layer = getattr(self, "kept", (None, 0))
    if cache is None:
        return ATTENTION(self, h, g, attn_mask_h, attn_mask_g, r, *more, **kwargs)
    query, key, value = (torch.einsum("ibh,hnd->bnid", h, weight) for weight in (self.q, self.k, self.v))
    keys, values = cache.update(key, value, layer)
    if not isinstance(cache, RetainedCache):
        return ATTENTION(self, h, g, attn_mask_h, attn_mask_g, r, *more, **kwargs)
    positions, slots = cache.position_ids, keys.shape[2]
    near = torch.einsum("bnid,jnd->bnij", query + self.r_r_bias[:, None], torch.einsum("jh,hnd->jnd", r[:, 0], self.r))
    distance = (positions[:, None, :, None] - torch.arange(slots)).clamp(min=0)
    scores = (query + self.r_w_bias[:, None]) @ keys.transpose(2, 3)
    scores = (scores + near.gather(3, distance.expand(scores.shape))) * self.scale
    mask = causal_mask(positions, slots)
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=3)
    return self.post_attention(h, (weights @ values).permute(2, 0, 1, 3)), None


REPLACED = {
    "XLNetLMHeadModel.forward": model,
    "XLNetModel.relative_positional_encoding": table,
    "XLNetRelativeAttention.forward": attend,
}
