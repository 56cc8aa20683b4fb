"""Blocks of characters by a mask, and a molecule for each character by its place: the family goes along a text."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.canine.modeling_canine import CanineAttention

OWN = CanineAttention.forward


def forward(self: Any, hidden_states: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
    """Blocks that see anything but themselves are left to the family: no model of its own has them."""
    width, stride = self.attend_from_chunk_width, self.attend_from_chunk_stride
    is_plain = width == stride == self.attend_to_chunk_width == self.attend_to_chunk_stride
    if not self.local or not is_plain or self.always_attend_to_first_position or self.first_position_attends_to_all:
        return OWN(self, hidden_states, attention_mask, **kwargs)
    block = torch.arange(hidden_states.shape[1]) // stride
    seen = attention_mask * (block[:, None] == block)
    return (self.output(self.self(hidden_states, hidden_states, seen)[0], hidden_states),)


def downsampled(self: Any, char_attention_mask: torch.Tensor, downsampling_rate: int) -> torch.Tensor:
    """Whether a molecule has any character [B,M]; those of the last one that is not whole have none."""
    batch, characters = char_attention_mask.shape
    count = characters // downsampling_rate
    whole = char_attention_mask[:, : count * downsampling_rate].reshape(batch, count, downsampling_rate)
    return whole.amax(dim=-1).float()


def repeated(self: Any, molecules: torch.Tensor, char_seq_length: int) -> torch.Tensor:
    """molecules[B,M,D] -> [B,S,D]; the first of them stands for all, and the last for what is left."""
    place = torch.arange(char_seq_length) // self.config.downsampling_rate + 1
    return torch.index_select(molecules, 1, place.clamp(max=molecules.shape[1] - 1))


REPLACED = {
    "CanineAttention.forward": forward,
    "CanineModel._downsample_attention_mask": downsampled,
    "CanineModel._repeat_molecules": repeated,
}
