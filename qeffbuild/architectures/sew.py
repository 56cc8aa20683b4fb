"""Frames that are joined in twos and taken apart again, whether their number is even or odd: without a branch."""

from __future__ import annotations

from typing import Any

import torch
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput


def encoded(
    self: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
) -> BaseModelOutput:
    """hidden_states[B,S,D] of a sound without padding; a last frame that was in no group comes back as zeros."""
    assert attention_mask is None, "sounds go one by one"
    channels = hidden_states.transpose(1, 2)
    joined = self.pool(channels)
    joined = (joined + self.pos_conv_embed(channels)[..., : joined.shape[-1]]).transpose(1, 2)
    seen = create_bidirectional_mask(config=self.config, inputs_embeds=joined, attention_mask=None)
    said = self.layer_norm(joined)
    for layer in self.layers:
        said = layer(said, attention_mask=seen, **kwargs)
    apart = self.upsample(said)
    rest = torch.zeros(apart.shape[0], self.config.squeeze_factor - 1, apart.shape[2], dtype=apart.dtype)
    frames = torch.arange(hidden_states.shape[1])
    return BaseModelOutput(last_hidden_state=torch.index_select(torch.cat((apart, rest), dim=1), 1, frames))


REPLACED = {"SEWEncoder.forward": encoded}
