"""Rotary embeddings by real numbers, as a graph has no complex ones; images come with the projection behind them."""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_rope_utils import dynamic_rope_update
from transformers.models.llama4.modeling_llama4 import Llama4ForConditionalGeneration, Llama4MultiModalProjector

_LOOK, _PROJECT = Llama4ForConditionalGeneration.get_image_features, Llama4MultiModalProjector.forward


@torch.no_grad()
@dynamic_rope_update
def angles(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """[B,S] -> [B,S,D,2]: cosine and sine, which are the complex numbers' two parts."""
    turned = position_ids[..., None].float() * self.inv_freq
    return torch.stack((turned.cos(), turned.sin()), -1) * self.attention_scaling


def apply_rotary_emb(xq: torch.Tensor, xk: torch.Tensor, freqs_cis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = freqs_cis[:, :, None].unbind(-1)

    def turned(x: torch.Tensor) -> torch.Tensor:
        a, b = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(3).type_as(x)

    return turned(xq), turned(xk)


def angles_of_patches(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """[1,P,D,2]. What the module keeps is complex, so they are computed anew, once for all of a trace."""
    return torch.view_as_real(self._compute_freqs_ci(self.config)[:, 0])[None]


def turned_patches(query: torch.Tensor, key: torch.Tensor, freqs_ci: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return apply_rotary_emb(query, key, freqs_ci)


def projected(self: Any, pixel_values: torch.Tensor, **more: Any) -> Any:
    features = _LOOK(self, pixel_values, **more)
    features.last_hidden_state = _PROJECT(self.multi_modal_projector, features.last_hidden_state)
    return features


def already_projected(self: Any, image_features: torch.Tensor) -> torch.Tensor:
    return image_features


REPLACED = {
    "Llama4TextRotaryEmbedding.forward": angles,
    "apply_rotary_emb": apply_rotary_emb,
    "Llama4VisionRotaryEmbedding.forward": angles_of_patches,
    "vision_apply_rotary_emb": turned_patches,
    "Llama4ForConditionalGeneration.get_image_features": projected,
    "Llama4MultiModalProjector.forward": already_projected,
}
