"""Keys and values out of a latent cache, written so that a graph holds them: joined, not copied into a new tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

EXPAND = "expand_kv"  # what transformers calls it in every family that has it


def expand_kv(self: Any, kv_nope: torch.Tensor, k_rot: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """kv_nope[B,1,C,R], k_rot[B,1,C,P] -> keys[B,H,C,D+P], values[B,H,C,V]; the self-check compares the two forms."""
    batch, _, slots, _ = kv_nope.shape
    widths = [self.qk_nope_head_dim, self.v_head_dim]
    expanded = self.kv_b_proj(kv_nope).view(batch, slots, -1, sum(widths)).transpose(1, 2)
    k_nope, value = torch.split(expanded, widths, dim=-1)
    return torch.cat((k_nope, k_rot.expand(-1, k_nope.shape[1], -1, -1)), dim=-1), value


def expanding(model: nn.Module) -> set[type[nn.Module]]:
    """The attention classes of a model that keep latents."""
    return {type(module) for module in model.modules() if hasattr(type(module), EXPAND)}
