"""A prompt whose tokens all see one another: those that are fed together do, so a prompt has to be fed as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from qeffbuild.export.cache import RetainedCache

Make = Callable[..., Any]


def seeing_one_another(own: Make) -> Make:
    """`own` sees by the cache whether a prompt is read; here the tokens of one run are a prompt, or one word."""

    def mask(*, past_key_values: Any = None, block_sequence_ids: Any = None, **more: Any) -> Any:
        if not isinstance(past_key_values, RetainedCache):
            return own(past_key_values=past_key_values, block_sequence_ids=block_sequence_ids, **more)
        last = past_key_values.position_ids.amax(dim=1)

        def together(row: torch.Tensor, head: Any, query: Any, slot: torch.Tensor) -> torch.Tensor:
            return slot <= last[row]

        return own(past_key_values=past_key_values, or_mask_function=together, **more)

    return mask


REPLACED = {
    "create_causal_mask": seeing_one_another(create_causal_mask),
    "create_sliding_window_causal_mask": seeing_one_another(create_sliding_window_causal_mask),
}
