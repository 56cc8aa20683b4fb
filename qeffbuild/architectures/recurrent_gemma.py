"""The linear recurrence as a loop that a graph can hold."""

from __future__ import annotations

from typing import Any

import torch

from qeffbuild.export.loops import recurrence


def scan(
    self: Any,
    hidden_states: torch.Tensor,
    recurrent_gate: torch.Tensor,
    reset: torch.Tensor,
    recurrent_states: torch.Tensor | None,
    acc_dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, None]:
    def step(one: list[torch.Tensor], state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        new = one[1].type(acc_dtype) * state + one[0].type(acc_dtype)
        return new.type(one[0].dtype), new

    gate = recurrent_gate * ~reset
    return recurrence(step, [hidden_states, gate], hidden_states[:, 0].type(acc_dtype) * 0), None


REPLACED = {"RecurrentGemmaRglru._rnn_scan": scan}
