"""The gated delta rule as a loop that a graph can hold, and blocks of keys that are chosen for all tokens at once.

The family's own code counts chunks of a text, and looks for each token's blocks in a loop over rows and tokens.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn import functional as F

from qeffbuild.export.loops import recurrence


def delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    *args: Any,
    use_qk_l2norm_in_kernel: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query, key [B,S,K,D], value [B,S,H,V], g (the logarithm of what is kept of the state) and beta [B,S,H]."""
    each = value.shape[2] // key.shape[2]
    query, key = (x.repeat_interleave(each, dim=2).float() for x in (query, key))
    if use_qk_l2norm_in_kernel:
        query, key = (x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (query, key))

    def step(one: list[torch.Tensor], state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value, decay, beta = one
        state = state * decay.exp()[..., None, None]
        wanted = (value - (state * key[..., None]).sum(-2)) * beta[..., None]
        state = state + key[..., None] * wanted[..., None, :]
        return (state * query[..., None]).sum(-2).flatten(1), state

    parts = [query * query.shape[-1] ** -0.5, key, value.float(), g.float(), beta.float()]
    first = 0 * key[:, 0, :, :, None] * value[:, 0, :, None, :].float()
    return recurrence(step, parts, first).unflatten(-1, value.shape[2:]).to(value.dtype), None


def chosen_tokens(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor,
    past_key_values: Any,
) -> torch.Tensor:
    """Which tokens each may see [B,1,S,S], of a text from its beginning: its best blocks and what is no block yet."""
    if past_key_values is not None:
        raise NotImplementedError("blocks of a cache")
    cos, sin = position_embeddings
    ratio, width, tokens = self.compress_ratio, self.index_head_dim, hidden_states.shape[1]
    queries, keys = torch.split(self.index_qk_proj(hidden_states), [self.index_n_heads * width, width], dim=-1)
    queries = self.q_layernorm(queries.unflatten(-1, (self.index_n_heads, width)))
    queries = turned(self, queries, cos, sin)
    # The mean of the block that would begin at each token; which of them do is asked below.
    longer = F.pad(keys, (0, 0, 0, ratio - 1)).float()
    means = sum(longer[:, place : place + tokens] for place in range(ratio)) / ratio
    means = turned(self, self.k_layernorm(means.to(keys.dtype))[:, :, None], cos, sin)
    scores = torch.relu(queries.transpose(1, 2).float() @ means.transpose(1, 2).transpose(2, 3).float()).sum(1)
    token = torch.arange(tokens)
    is_block = (token % ratio == 0)[None] & (token[None] + ratio <= token[:, None] + 1)
    scores = torch.where(is_block[None], scores / width**0.5, float("-inf"))
    best = F.pad(scores, (0, self.block_topk), value=float("-inf")).topk(self.block_topk, dim=-1)
    places = torch.where(best.values > float("-inf"), best.indices, tokens)
    begins = torch.zeros_like(F.pad(scores, (0, 1)), dtype=torch.long).scatter(-1, places, 1)[..., :tokens]
    is_chosen = torch.index_select(begins, -1, token // ratio * ratio) > 0
    is_tail = token[None] >= (token[:, None] + 1) // ratio * ratio
    return (is_chosen | is_tail[None])[:, None]


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
    "torch_chunk_gated_delta_rule": delta_rule,
    "Qwen4ExpTextQSAIndexer.forward": chosen_tokens,
    "Qwen4ExpTextRotaryEmbedding.recomposition_frequencies": by_turns,
}
