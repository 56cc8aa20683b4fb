"""The adapter of the one language that a model is set to: the family gathers the rows of each of its languages."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from transformers.models.xmod.modeling_xmod import XmodModel, XmodOutput

MODEL, ADAPTER = XmodModel.forward, XmodOutput.lang_adapter


@wraps(MODEL)
def model(self: Any, *args: Any, **kwargs: Any) -> Any:
    if kwargs.get("lang_ids") is None and self.config.default_language is not None:
        kwargs["lang_ids"] = self.config.default_language
    return MODEL(self, *args, **kwargs)


def lang_adapter(self: Any, lang_ids: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    if not isinstance(lang_ids, str):
        return ADAPTER(self, lang_ids, hidden_states)
    residual = hidden_states
    if self.adapter_layer_norm is not None:
        hidden_states = self.adapter_layer_norm(hidden_states)
    elif self.adapter_reuse_layer_norm:
        hidden_states = self.LayerNorm(hidden_states)
    if self.ln_before_adapter:
        residual = hidden_states
    return self.adapter_modules[lang_ids](hidden_states) + residual


REPLACED = {"XmodModel.forward": model, "XmodOutput.lang_adapter": lang_adapter}
