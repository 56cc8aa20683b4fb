"""Experts without a loop over those that were chosen; a router that is told of no padding.

What padding is given nobody reads, and with room for all tokens (the default) none takes another's place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear, one_hot


def routed(self: Any, hidden_states: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Any:
    """hidden_states[T,D] -> the likeliest expert of each token and the shares of its two likeliest, [T,E]."""
    if self.moe_eval_capacity_token_fraction < 1 or self.second_expert_policy != "all":
        raise ValueError("its router drops tokens, by what else is in a run or by chance")
    bias = self.classifier.bias
    logits = linear(
        hidden_states.to(self.dtype),
        self.classifier.weight.to(self.dtype),
        None if bias is None else bias.to(self.dtype),
    )
    shares = torch.softmax(logits, dim=-1).to(hidden_states.dtype)
    first = one_hot(shares.argmax(dim=-1), num_classes=self.num_experts)
    others = logits.masked_fill(first.bool(), float("-inf"))
    second = one_hot(others.argmax(dim=-1), num_classes=self.num_experts)
    of_first, of_second = self.normalize_router_probabilities(shares, first, second)
    return first, of_first[:, None] * first + of_second[:, None] * second, logits


def experts(
    self: Any, hidden_states: torch.Tensor, router_mask: torch.Tensor, router_probs: torch.Tensor
) -> torch.Tensor:
    """As transformers has it: an expert's number is looked for among the entries of the mask, not among its columns."""
    kept = 1 - self.moe_token_dropout
    out = torch.zeros_like(hidden_states)
    for each in range(min(self.num_experts, 2)):  # the mask's entries are 0 and 1
        weights = ((router_mask == each).to(router_probs.dtype) * router_probs).sum(dim=-1, keepdim=True)
        out = out + self[f"expert_{each}"](hidden_states) * weights * kept
    return out


REPLACED = {"NllbMoeExperts.forward": experts, "NllbMoeTop2Router.forward": routed}
