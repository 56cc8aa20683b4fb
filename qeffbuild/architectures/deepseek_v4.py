"""Projections of the whole text, kept by position: windows of them are compressed anew at each step.

The family's own cache keeps what is compressed already and the tokens of the window that is not full yet, of which rows
of unlike length have different numbers. A window that is not full is compressed here, too; the masks hide it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HCACompressor

from qeffbuild.export.cache import RetainedCache, of_all

OWN = DeepseekV4HCACompressor.forward
_MORE = 3  # windows behind those of the text, so that it goes through the same code however short it is


def whole_windows(self: Any, name: str, kv: torch.Tensor, gate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """kv and gate [B,S,D] of new tokens -> those of all tokens, as many as whole windows have."""
    found = []
    for held, new in ((self.buffer_kv, kv), (self.buffer_gate, gate)):
        held[name] = of_all(self, held[name], new)
        tokens = (held[name].shape[1] // self.compress_rate + _MORE) * self.compress_rate
        found.append(F.pad(held[name], (0, 0, 0, tokens - held[name].shape[1])))
    return found[0], found[1], 0


def as_they_are(self: Any, name: str, compressed: torch.Tensor) -> torch.Tensor:
    return compressed


def nothing_before(self: Any, *args: Any) -> tuple[None, None]:
    """The first window of the text has none before it."""
    return None, None


def compressor(
    self: Any,
    hidden_states: torch.Tensor,
    q_residual: torch.Tensor,
    position_ids: torch.Tensor,
    past_key_values: Any,
    layer_idx: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A single token gets a mask, too: of windows that are not full. (The family's own code asks for two.)"""
    if not isinstance(past_key_values, RetainedCache):
        return OWN(self, hidden_states, q_residual, position_ids, past_key_values, layer_idx)
    twice = torch.cat((position_ids, position_ids), dim=1)
    compressed, bias = OWN(self, hidden_states, q_residual, twice, past_key_values, layer_idx)
    return compressed, bias[:, :, : position_ids.shape[1]]


REPLACED = {
    "DeepseekV4HCACache.store_compression_weights": whole_windows,
    "DeepseekV4HCACache.update_compressor_states": as_they_are,
    "DeepseekV4CSACache.update_overlap_state": nothing_before,
    "DeepseekV4HCACompressor.forward": compressor,
}
