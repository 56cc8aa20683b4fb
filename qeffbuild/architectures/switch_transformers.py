"""Experts without a loop over those that were chosen: each sees every token, and the routing weights select."""

from __future__ import annotations

from typing import Any

import torch


def experts(
    self: Any, hidden_states: torch.Tensor, selected_experts: torch.Tensor, routing_weights: torch.Tensor
) -> torch.Tensor:
    """hidden_states[T,D], selected_experts[T,1,E] of zeros and ones, routing_weights[T,1]."""
    weights = selected_experts[:, 0].to(hidden_states.dtype) * routing_weights
    return sum(self[f"expert_{each}"](hidden_states) * weights[:, each, None] for each in range(self.num_experts))


REPLACED = {"SwitchTransformersExperts.forward": experts}
