"""A causal language model and a recipe -> a module from flat tensors to flat tensors, ready to be traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from qeffbuild.export.cache import flat_states, retained_cache
from qeffbuild.export.positions import padding_offset, true_positions
from qeffbuild.export.recipes import Recipe
from qeffbuild.export.states import CacheForm, accepts

INPUTS = ("input_ids", "position_ids", "logits_index")


class Decoder(nn.Module):
    """input_ids, position_ids [batch, tokens], logits_index [batch, logits], states -> logits, states."""

    def __init__(self, model: Any, form: CacheForm, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.form = form
        self.recipe = recipe
        self.offset = padding_offset(model) if recipe.offset_by_padding else 0

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        logits_index: torch.Tensor,
        states: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        ctx_len = self._one_symbol_each(input_ids, states)
        cache = retained_cache(self.form, states, position_ids, self.recipe.past_len)
        # A padded token still needs some valid position; what it computes is read by nobody.
        positions = position_ids.clamp(min=0) + self.offset
        arguments: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        if accepts(self.model, "position_ids"):
            arguments["position_ids"] = positions
        if self.recipe.explicit_mask:
            filled = torch.arange(ctx_len)[None] <= position_ids.amax(dim=1, keepdim=True)
            arguments["attention_mask"] = filled.long()
        with true_positions(self.model, positions), self._chosen_rows(logits_index) as chosen:
            logits = self.model(input_ids=input_ids, **arguments).logits
        if not chosen:
            logits = _gather(logits, logits_index)
        if logits.dtype != torch.float32:
            logits = logits.float()
        return (logits, *flat_states(cache, self.form.states))

    def _one_symbol_each(self, input_ids: torch.Tensor, states: Sequence[torch.Tensor]) -> int:
        """Tell the trace that all states share one batch size and one context length, and return the latter."""
        specs = self.form.states
        ctx_len = next(t.shape[s.ctx_axis] for t, s in zip(states, specs, strict=True) if s.ctx_axis is not None)
        for tensor, spec in zip(states, specs, strict=True):
            torch._check(tensor.shape[spec.batch_axis] == input_ids.shape[0])
            if spec.ctx_axis is not None:
                torch._check(tensor.shape[spec.ctx_axis] == ctx_len)
        return ctx_len

    @contextlib.contextmanager
    def _chosen_rows(self, logits_index: torch.Tensor) -> Iterator[list[bool]]:
        """Hidden states are gathered before the head, so that a long prompt pays for the logits it asks for.

        What a model does to its logits after the head (scaling, caps) still happens.
        """
        done: list[bool] = []
        head = self.model.get_output_embeddings()

        def choose(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            done.append(True)
            return (_gather(args[0], logits_index), *args[1:])

        hook = head.register_forward_pre_hook(choose) if head is not None else None
        try:
            yield done
        finally:
            if hook is not None:
                hook.remove()


def _gather(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """rows[B,S,X], index[B,L] -> [B,L,X]."""
    return torch.gather(rows, 1, index[:, :, None].expand(-1, -1, rows.shape[-1]))
