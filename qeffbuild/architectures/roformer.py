"""Angles of each row's own positions: the family has one table for all rows."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.roformer.modeling_roformer import RoFormerSelfAttention

OWN = RoFormerSelfAttention.forward


def forward(
    self: Any, hidden_states: torch.Tensor, attention_mask: Any = None, sinusoidal_pos: Any = None, **kwargs: Any
) -> Any:
    """The table is [1,1,S,D], or of each row [1,1,B,S,D]."""
    if sinusoidal_pos is not None and sinusoidal_pos.dim() == 5:
        sinusoidal_pos = sinusoidal_pos[0, 0][:, None]
    return OWN(self, hidden_states, attention_mask, sinusoidal_pos, **kwargs)


REPLACED = {"RoFormerSelfAttention.forward": forward}
