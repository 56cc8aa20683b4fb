"""States of the linear recurrence in the cache of the layers of attention: the family keeps them in its modules."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import (
    RecurrentGemmaModel,
    RecurrentGemmaRecurrentBlock,
    RecurrentGemmaRglru,
)

from qeffbuild.export.cache import carried
from qeffbuild.export.loops import each_token

MODEL, BLOCK, SCAN = RecurrentGemmaModel.forward, RecurrentGemmaRecurrentBlock.forward, RecurrentGemmaRglru._rnn_scan


@wraps(MODEL)
def model(self: Any, *args: Any, **kwargs: Any) -> Any:
    for index, layer in enumerate(self.layers):
        layer.temporal_block.layer_idx = index  # which those that recur are not told
    return MODEL(self, *args, **kwargs)


def block(
    self: Any,
    input_states: torch.Tensor,
    position_ids: torch.Tensor,
    attention_mask: Any,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if past_key_values is None:
        return BLOCK(self, input_states, position_ids, attention_mask, **kwargs)
    layer, unit = self.layer_idx, self.rg_lru

    def one(hidden: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        beside, entering = self.act_fn(self.linear_y(hidden)), self.linear_x(hidden).transpose(1, 2)
        seen = past_key_values.update_conv_state(entering, layer, conv_kernel_size=self.conv1d_width)
        window = seen[..., -self.conv1d_width :] * self.conv_1d.weight[:, 0]
        entering = window.sum(-1) + self.conv_1d.bias
        unit.recurrent_states = carried(past_key_values, layer, entering.float())
        out = unit(entering[:, None], position)
        past_key_values.update_recurrent_state(unit.recurrent_states, layer)
        unit.recurrent_states = None
        return self.linear_out(out * beside)

    return each_token(one, input_states, position_ids), None


def scan(
    self: Any, hidden_states: torch.Tensor, recurrent_gate: torch.Tensor, reset: torch.Tensor, recurrent_states: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token's output is the very state that it leaves: a loop that goes by chunks has to see that."""
    if hidden_states.shape[1] > 1 or recurrent_states is None:
        return SCAN(self, hidden_states, recurrent_gate, reset, recurrent_states)
    state = (recurrent_gate * ~reset)[:, 0].float() * recurrent_states + hidden_states[:, 0].float()
    return state[:, None].to(hidden_states.dtype), state


REPLACED = {
    "RecurrentGemmaModel.forward": model,
    "RecurrentGemmaRecurrentBlock.forward": block,
    "RecurrentGemmaRglru._rnn_scan": scan,
}
