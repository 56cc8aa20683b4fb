"""What each layer found before as retained states, and weights as they are stored.

The family keeps five tensors of all layers, which its code writes into, and loops over the text in Python.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from transformers.models.rwkv.modeling_rwkv import RwkvFeedForward, RwkvModel, RwkvSelfAttention

from qeffbuild.export.cache import CarryingCache, carried
from qeffbuild.export.loops import each_token

MODEL, ATTENTION, FEED_FORWARD = RwkvModel.forward, RwkvSelfAttention.forward, RwkvFeedForward.forward
*_SUMS, _ATTENDED, _FED = range(5)  # the states of a layer


@wraps(MODEL)
def model(self: Any, *args: Any, state: Any = None, use_cache: bool | None = None, **kwargs: Any) -> Any:
    if state is None and use_cache:
        state = CarryingCache(len(self.blocks), states=5)
    return MODEL(self, *args, state=state, use_cache=use_cache, **kwargs)


def attention(self: Any, hidden: torch.Tensor, state: Any = None, use_cache: bool = False) -> tuple[torch.Tensor, Any]:
    """hidden [B,S,D] -> the same."""
    if state is None:
        return ATTENTION(self, hidden, state, use_cache)

    def one(hidden: torch.Tensor) -> torch.Tensor:
        before = carried(state, self.layer_id, hidden, _ATTENDED)
        key = self.key(mixed(hidden, before, self.time_mix_key))[:, 0].float()
        value = self.value(mixed(hidden, before, self.time_mix_value))[:, 0]
        receptance = torch.sigmoid(self.receptance(mixed(hidden, before, self.time_mix_receptance)))
        out, *sums = weighted(self, key, value, *(carried(state, self.layer_id, key, which) for which in _SUMS))
        for which, new in zip(_SUMS, sums, strict=True):
            state.update_recurrent_state(new, self.layer_id, which)
        state.update_recurrent_state(hidden, self.layer_id, _ATTENDED)
        return self.output(receptance * out.to(value.dtype)[:, None])

    return each_token(one, hidden), state


def weighted(
    self: Any, key: torch.Tensor, value: torch.Tensor, num: torch.Tensor, den: torch.Tensor, most: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """key, value [B,A] of one token -> the mean of all values by their keys; both sums, the greatest exponent."""
    most = torch.where(den == 0, -1e38, most)  # nothing went before
    decayed = most - torch.exp(self.time_decay)
    top = torch.maximum(most, key + self.time_first)
    before, now = torch.exp(most - top), torch.exp(key + self.time_first - top)
    out = (before * num + now * value) / (before * den + now)
    top = torch.maximum(decayed, key)
    before, now = torch.exp(decayed - top), torch.exp(key - top)
    return out, before * num + now * value, before * den + now, top


def feed_forward(self: Any, hidden: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
    if state is None:
        return FEED_FORWARD(self, hidden, state)

    def one(hidden: torch.Tensor) -> torch.Tensor:
        before = carried(state, self.layer_id, hidden, _FED)
        key = torch.square(torch.relu(self.key(mixed(hidden, before, self.time_mix_key))))
        receptance = torch.sigmoid(self.receptance(mixed(hidden, before, self.time_mix_receptance)))
        state.update_recurrent_state(hidden, self.layer_id, _FED)
        return receptance * self.value(key)

    return each_token(one, hidden), state


def mixed(now: torch.Tensor, before: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return now * share + before * (1 - share)


def stored_as_they_are(self: Any) -> None:
    """PyTorch halves weights and hidden states every few layers to stay in float16's range, in place."""


REPLACED = {
    "RwkvModel.forward": model,
    "RwkvSelfAttention.forward": attention,
    "RwkvFeedForward.forward": feed_forward,
    "RwkvModel._rescale_layers": stored_as_they_are,
}
