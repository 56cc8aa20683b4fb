"""A causal language model and a recipe -> a module from flat tensors to flat tensors, ready to be traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from qeffbuild.export.cache import flat_states, retained_cache
from qeffbuild.export.loops import token_by_token
from qeffbuild.export.ops import ctx_scatter
from qeffbuild.export.positions import padding_offset, true_positions
from qeffbuild.export.recipes import Recipe
from qeffbuild.export.states import CacheForm, accepts, cache_name

CHOSEN = "logits_index"
INPUTS = ("input_ids", "position_ids", CHOSEN)


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
        torch._check(position_ids.shape[1] == input_ids.shape[1])
        torch._check(position_ids.shape[0] == input_ids.shape[0])
        torch._check(logits_index.shape[0] == input_ids.shape[0])
        ctx_len = self._one_symbol_each(input_ids, states)
        if self.recipe.recompute:
            return self._all_again(input_ids, position_ids, logits_index, states[0])
        cache = retained_cache(self.form, states, position_ids, self.recipe.past_len)
        # A padded token still needs some valid position; what it computes is read by nobody.
        positions = position_ids.clamp(min=0) + self.offset
        arguments: dict[str, Any] = {cache_name(self.model): cache, "use_cache": True}
        if accepts(self.model, "position_ids"):
            arguments["position_ids"] = positions
        if self.recipe.explicit_mask and ctx_len is not None:
            filled = torch.arange(ctx_len)[None] <= position_ids.amax(dim=1, keepdim=True)
            arguments["attention_mask"] = filled.long()
        looping = token_by_token(self.model, self.form, cache)
        is_choosing = accepts(self.model, CHOSEN)  # a model that knows where tokens may stop
        if is_choosing:
            arguments[CHOSEN] = logits_index
        choosing = contextlib.nullcontext([True]) if is_choosing else self._chosen_rows(logits_index)
        with true_positions(self.model, positions), looping, choosing as chosen:
            logits = self.model(input_ids=input_ids, **arguments).logits
        if not chosen:
            logits = _gather(logits, logits_index)
        if logits.dtype != torch.float32:
            logits = logits.float()
        return (logits, *flat_states(cache, self.form.states))

    def _all_again(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, logits_index: torch.Tensor, text: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """No token depends on those behind it, so what is not written yet may be anything."""
        text = ctx_scatter(text, position_ids, input_ids[:, :, None])
        places = torch.gather(position_ids.clamp(min=0), 1, logits_index)
        with self._chosen_rows(places) as chosen:
            logits = self.model(input_ids=text[:, :, 0], **without_cache(self.model)).logits
        if not chosen:
            logits = _gather(logits, places)
        return logits, text

    def _one_symbol_each(self, input_ids: torch.Tensor, states: Sequence[torch.Tensor]) -> int | None:
        """Tell the trace that all states share one batch size and one context length, and return the latter."""
        specs = self.form.states
        sizes = (t.shape[s.ctx_axis] for t, s in zip(states, specs, strict=True) if s.ctx_axis is not None)
        ctx_len = next(sizes, None)
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
            if args[0].dim() != 3:  # several streams at once: the rows are chosen behind the head
                return args
            done.append(True)
            return (_gather(args[0], logits_index), *args[1:])

        hook = head.register_forward_pre_hook(choose) if head is not None else None
        try:
            yield done
        finally:
            if hook is not None:
                hook.remove()


def without_cache(model: nn.Module) -> dict[str, bool]:
    return {name: False for name in ("use_cache", "use_mems") if accepts(model, name)}


def _gather(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """rows[B,S,X], index[B,L] -> [B,L,X]."""
    return torch.gather(rows, 1, index[:, :, None].expand(-1, -1, rows.shape[-1]))
