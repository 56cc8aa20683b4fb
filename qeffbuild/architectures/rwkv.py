"""The weighted sum over all that went before as a loop that a graph can hold; weights stay as they are stored."""

from __future__ import annotations

from typing import Any

import torch

from qeffbuild.export.loops import recurrence


def attention(
    time_decay: torch.Tensor,
    time_first: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    state: Any = None,
    return_state: bool = False,
) -> tuple[torch.Tensor, Any]:
    decay = -torch.exp(time_decay)

    def step(one: list[torch.Tensor], state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        key, value = one[0].float(), one[1]
        num, den, most = state.unbind(1)
        most = torch.where(den == 0, -1e38, most)  # nothing went before
        top = torch.maximum(most, key + time_first)
        before, now = torch.exp(most - top), torch.exp(key + time_first - top)
        out = (before * num + now * value) / (before * den + now)
        top = torch.maximum(most + decay, key)
        before, now = torch.exp(most + decay - top), torch.exp(key - top)
        return out.to(value.dtype), torch.stack([before * num + now * value, before * den + now, top], dim=1)

    return recurrence(step, [key, value], torch.stack([key[:, 0].float() * 0] * 3, dim=1)), state


def stored_as_they_are(self: Any) -> None:
    """PyTorch halves weights and hidden states every few layers to stay in float16's range, in place."""


REPLACED = {"rwkv_linear_attention": attention, "RwkvModel._rescale_layers": stored_as_they_are}
