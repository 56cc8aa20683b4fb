"""Blocks of keys that are chosen for all tokens at once: the family's own code goes row by row and token by token."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn import functional as F

from qeffbuild.export.cache import RetainedCache


def chosen_tokens(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor,
    past_key_values: Any,
) -> torch.Tensor:
    """Which of T tokens each of S may see [B,1,S,T]: its best blocks and what is no block yet.

    The tables of angles [B,T+S,D], or [B,S,D] of a text from its beginning, end with those of the S tokens.
    """
    (cos, sin), new = position_embeddings, hidden_states.shape[1]
    ratio, width = self.compress_ratio, self.index_head_dim
    queries, keys = torch.split(self.index_qk_proj(hidden_states), [self.index_n_heads * width, width], dim=-1)
    queries = self.q_layernorm(queries.unflatten(-1, (self.index_n_heads, width)))
    queries = turned(self, queries, cos[:, -new:], sin[:, -new:])
    if past_key_values is not None:
        keys = past_key_values.update_indexer(keys, self.layer_idx)
    is_retained = isinstance(past_key_values, RetainedCache)
    positions = past_key_values.position_ids if is_retained else torch.arange(new)[None]
    tokens = keys.shape[1]
    # The mean of the block that would begin at each token; which of them do is asked below.
    longer = F.pad(keys, (0, 0, 0, ratio - 1)).float()
    means = sum(longer[:, place : place + tokens] for place in range(ratio)) / ratio
    means = turned(self, self.k_layernorm(means.to(keys.dtype))[:, :, None], cos[:, :tokens], sin[:, :tokens])
    scores = torch.relu(queries.transpose(1, 2).float() @ means.transpose(1, 2).transpose(2, 3).float()).sum(1)
    token, seen = torch.arange(tokens), positions[:, :, None] + 1
    is_block = (token % ratio == 0) & (token + ratio <= seen)
    scores = torch.where(is_block, scores / width**0.5, float("-inf"))
    best = F.pad(scores, (0, self.block_topk), value=float("-inf")).topk(self.block_topk, dim=-1)
    places = torch.where(best.values > float("-inf"), best.indices, tokens)
    begins = torch.zeros_like(F.pad(scores, (0, 1)), dtype=torch.long).scatter(-1, places, 1)[..., :tokens]
    is_chosen = torch.index_select(begins, -1, token // ratio * ratio) > 0
    is_tail = token >= seen // ratio * ratio
    return (is_chosen | is_tail)[:, None]


def turned(self: Any, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The rotation of the family's own file."""
    turn = sys.modules[type(self).__module__].apply_rotary_pos_emb
    return turn(heads, cos=cos, sin=sin, unsqueeze_dim=2)


def by_turns(self: Any, angles: torch.Tensor) -> torch.Tensor:
    """Angles of time, height and width [3,B,S,D] -> [B,S,2D], chosen where the family's file writes over the first."""
    place, turning = torch.arange(angles.shape[-1]), angles[0]
    for axis in (1, 2):
        is_own = (place % 3 == axis) & (place < self.mrope_section[axis] * 3)
        turning = torch.where(is_own, angles[axis], turning)
    return torch.cat((turning, turning), dim=-1)


REPLACED = {
    "Qwen4ExpTextQSAIndexer.forward": chosen_tokens,
    "Qwen4ExpTextRotaryEmbedding.recomposition_frequencies": by_turns,
}
