"""Frames that are joined in twos and taken apart again, whether their number is even or odd: without a branch."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import max_pool1d
from transformers.modeling_outputs import BaseModelOutput


def encoded(
    self: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
) -> BaseModelOutput:
    """hidden_states[B,S,D]; a last frame that was in no group comes back as zeros, as in the modeling file."""
    factor = self.config.squeeze_factor
    if attention_mask is not None:
        hidden_states = hidden_states * attention_mask[:, :, None].to(hidden_states.dtype)
        attention_mask = max_pool1d(attention_mask.float()[:, None], factor, factor)[:, 0].long()
    channels = hidden_states.transpose(1, 2)
    joined = self.pool(channels)
    joined = joined + self.pos_conv_embed(channels)[..., : joined.shape[-1]]
    if attention_mask is None:
        attention_mask = torch.ones(joined.shape[0], joined.shape[-1], dtype=torch.long)
    said = self.encoder(joined.transpose(1, 2), attention_mask, **kwargs).last_hidden_state
    apart = self.upsample(said)
    rest = torch.zeros(apart.shape[0], factor - 1, apart.shape[2], dtype=apart.dtype)
    frames = torch.arange(hidden_states.shape[1])
    return BaseModelOutput(last_hidden_state=torch.index_select(torch.cat((apart, rest), dim=1), 1, frames))


REPLACED = {"SEWDEncoder.forward": encoded}
