"""Windows by masks, and tokens that see and are seen by all others."""

from __future__ import annotations

from typing import Any

import torch

from qeffbuild.export.windows import of_the_whole_text, within_windows


def attend(self: Any, hidden_states: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> tuple[torch.Tensor]:
    near = within_windows(self, hidden_states, attention_mask)
    far = of_the_whole_text(self, hidden_states, attention_mask)
    return (torch.where(attention_mask[:, :, None] > 0, far, near),)


def unpadded(
    self: Any,
    input_ids: Any,
    attention_mask: Any,
    token_type_ids: Any,
    position_ids: Any,
    inputs_embeds: Any,
    pad_token_id: int,
) -> tuple[Any, ...]:
    return 0, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds


REPLACED = {"LongformerSelfAttention.forward": attend, "LongformerModel._pad_to_window_size": unpadded}
