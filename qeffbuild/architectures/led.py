"""Windows of an encoder by masks. No token is seen by all others: who generates names none."""

from __future__ import annotations

from typing import Any

import torch

from qeffbuild.export.windows import within_windows


def attend(self: Any, hidden_states: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> tuple[torch.Tensor]:
    return (within_windows(self, hidden_states, attention_mask),)


def unpadded(self: Any, input_ids: Any, attention_mask: Any, inputs_embeds: Any, pad_token_id: int) -> tuple[Any, ...]:
    return 0, input_ids, attention_mask, inputs_embeds


REPLACED = {"LEDEncoderSelfAttention.forward": attend, "LEDEncoder._pad_to_window_size": unpadded}
