"""Experts without sorting tokens into groups of unknown size: each row goes through all, and its own is selected."""

from __future__ import annotations

from typing import Any

import torch


def gating(self: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rows stay in their order, and where the groups' sizes were, each row says its expert."""
    logits = self.layer(hidden_states).float()
    chosen_logits, chosen = logits.topk(self.top_k, dim=1)
    gates = torch.softmax(chosen_logits, dim=1).type_as(hidden_states)
    rows = torch.arange(hidden_states.shape[0] * self.top_k)
    return rows, rows // self.top_k, gates.flatten(), chosen.flatten(), logits


def experts(self: Any, inputs: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    every = inputs @ self.weight.transpose(1, 2)
    is_own = (chosen[None] == torch.arange(self.num_experts)[:, None])[:, :, None]
    return (every * is_own.to(every.dtype)).sum(0)


REPLACED = {"JetMoeTopKGating.forward": gating, "JetMoeParallelExperts.forward": experts}
