"""A mask and positions of each row: with a cache the family lets its tokens see one another, and counts one row."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch.nn import functional as F
from transformers.models.fsmt.modeling_fsmt import FSMTDecoder, SinusoidalPositionalEmbedding

from qeffbuild.export.cache import RetainedCache, keeping
from qeffbuild.export.interfaces import added, causal_mask

DECODER, TABLE = FSMTDecoder.forward, SinusoidalPositionalEmbedding.forward


@wraps(DECODER)
def decoder(self: Any, input_ids: torch.Tensor, said: torch.Tensor, *given: Any, **kwargs: Any) -> Any:
    """`given` are the masks of the encoder's output, of padding, and of what each token may see."""
    own = getattr(kwargs.get("past_key_values"), "self_attention_cache", None)
    if not isinstance(own, RetainedCache):
        return DECODER(self, input_ids, said, *given, **kwargs)
    slots = own.get_mask_sizes(input_ids.shape[1])[0]
    seen = added(causal_mask(own.position_ids, slots), said.dtype)
    kwargs["decoder_causal_mask"] = seen
    with keeping([self.embed_positions], own):
        masks: tuple[Any, Any] = kwargs.pop("encoder_attention_mask", None), None
        return DECODER(self, input_ids, said, *masks, **kwargs)


def table(self: Any, input: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    cache, _ = getattr(self, "kept", (None, 0))
    if cache is None:
        return TABLE(self, input, **kwargs)
    positions = cache.position_ids.clamp(min=0) + 1
    return F.embedding(torch.where(input != self.padding_idx, positions, 0) + self.padding_idx, self.weight)


REPLACED = {"FSMTDecoder.forward": decoder, "SinusoidalPositionalEmbedding.forward": table}
