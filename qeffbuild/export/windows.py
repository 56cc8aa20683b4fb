"""Attention of whole texts within windows, and to some tokens from everywhere: by masks, not by pieces of the text.

Longformer and the encoder of LED cut a text into pieces, and pad it to a number of them, which holds for one length.
"""

from __future__ import annotations

from typing import Any

import torch

from qeffbuild.export.ops import attention


def within_windows(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """hidden[B,S,D], mask[B,S] (0 shown, below that not, above it seen by all) -> what each sees near it [B,S,D]."""
    place = torch.arange(hidden.shape[1])
    is_near = (place[:, None] - place).abs() <= self.one_sided_attn_window_size
    seen = (mask > 0)[:, None, None] | (is_near & (mask == 0)[:, None, None])
    return _attended(self, hidden, (self.query, self.key, self.value), seen)


def of_the_whole_text(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The same for tokens that see, and are seen by, all others: with projections of their own."""
    seen = (mask >= 0)[:, None, None].expand(-1, -1, hidden.shape[1], -1)
    return _attended(self, hidden, (self.query_global, self.key_global, self.value_global), seen)


def _attended(self: Any, hidden: torch.Tensor, projections: tuple[Any, ...], seen: torch.Tensor) -> torch.Tensor:
    heads = (one(hidden).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for one in projections)
    query, key, value = heads
    return attention(query, key, value, seen, self.head_dim**-0.5, 0.0).flatten(2)
