"""Biases by the true distances of tokens, and queries that grow with their true positions."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.inkling.modeling_inkling import InklingAttention

from qeffbuild.export.cache import RetainedCache
from qeffbuild.export.positions import bias_by_distance

OWN = InklingAttention.forward


def attention(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: Any,
    conv_mask: Any = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """The family's own, but that what it multiplies by the logarithm of one row's positions is multiplied before."""
    config = self.config
    floor = None if self.is_sliding else config.log_scaling_n_floor
    arguments = (hidden_states, attention_mask, conv_mask, past_key_values)
    if floor is None or not isinstance(past_key_values, RetainedCache):
        return OWN(self, *arguments, **kwargs)
    seen = (past_key_values.position_ids + 1).float()
    growth = 1.0 + config.log_scaling_alpha * torch.log((seen / floor).clamp(min=1.0))[:, :, None]
    hooks = (
        self.q_norm.register_forward_hook(lambda module, args, out: (out.float() * growth[..., None]).to(out.dtype)),
        self.r_proj.register_forward_hook(lambda module, args, out: (out.float() * growth).to(out.dtype)),
    )
    config.log_scaling_n_floor = None
    try:
        return OWN(self, *arguments, **kwargs)
    finally:
        config.log_scaling_n_floor = floor
        for hook in hooks:
            hook.remove()


REPLACED = {"InklingAttention.forward": attention, "InklingRelativeLogits.forward": bias_by_distance}
