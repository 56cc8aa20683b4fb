"""A mask by the positions of tokens, for a family that counts how long the whole text is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers.models.xlm.modeling_xlm import XLMWithLMHeadModel, get_masks

from qeffbuild.export.cache import RetainedCache
from qeffbuild.export.interfaces import causal_mask

MODEL = XLMWithLMHeadModel.forward


def model(
    self: Any,
    input_ids: Any = None,
    position_ids: Any = None,
    past_key_values: Any = None,
    use_cache: bool = False,
    **kwargs: Any,
) -> Any:
    if use_cache:
        rows, tokens = input_ids.shape
        positions, slots = torch.arange(tokens).expand(rows, -1), tokens
        if isinstance(past_key_values, RetainedCache):
            past_key_values.past_len = 0  # all tokens that are given are new
            positions, slots = past_key_values.position_ids, past_key_values.get_mask_sizes(tokens)[0]
        seen = causal_mask(positions, slots)
        # How long the rows are is asked for, which a trace cannot say; it matters to a mask that is not used.
        longest = SimpleNamespace(item=lambda: tokens)
        lengths = SimpleNamespace(size=lambda axis: rows, max=lambda: longest)
        kwargs.update(attention_mask=seen[:, 0], lengths=lengths)
    return MODEL(self, input_ids, position_ids=position_ids, cache=past_key_values, **kwargs)


def masks(slen: Any, lengths: torch.Tensor, causal: bool, padding_mask: Any = None) -> tuple[torch.Tensor, ...]:
    """The mask of tokens [B,S], and that of what each may see: here the given one, where it is [B,S,T]."""
    if padding_mask is None or padding_mask.dim() < 3 or not causal:
        return get_masks(slen, lengths, causal, padding_mask)
    return torch.ones(padding_mask.shape[:2], dtype=torch.bool), padding_mask


REPLACED = {"XLMWithLMHeadModel.forward": model, "get_masks": masks}
