"""transformers' own hooks for masks, attention and experts, filled for a trace with retained state.

Models reach these through name -> function tables, so no modeling file is rewritten. The tables are changed inside a
`with` block and put back after it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import masking_utils
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from qeffbuild.export.ops import attention

NAME = "qeffbuild"
TOLERANCE = 1e-5


class NoInterface(Exception):
    """A model's attention cannot be reached through transformers' table."""


@dataclass(slots=True)
class AttentionChoice:
    """Which attention classes give exactly what the symbolic op gives: measured on a small model, used in the trace.

    Whatever differs (sinks, biases, extra norms) keeps the model's own function.
    """

    measuring: bool = False
    fused: dict[type, bool] = field(default_factory=dict)

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor,
        scaling: float | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        arguments = {**kwargs, "dropout": 0.0, **({} if scaling is None else {"scaling": scaling})}
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        softcap = float(kwargs.get("softcap") or 0.0)
        if self.measuring:
            own = _own_attention(module, query, key, value, attention_mask, arguments)
            one_op = attention(query, key, value, _boolean(attention_mask), scale, softcap)
            same = own.shape == one_op.shape and bool((own - one_op).abs().max() <= TOLERANCE * (1 + own.abs().max()))
            self.fused[type(module)] = self.fused.get(type(module), True) and same
            return own, None
        if self.fused.get(type(module), False):
            return attention(query, key, value, _boolean(attention_mask), scale, softcap), None
        return _own_attention(module, query, key, value, attention_mask, arguments), None


def _own_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    arguments: dict[str, Any],
) -> torch.Tensor:
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise NoInterface(f"{type(module).__name__} has no eager_attention_forward beside it")
    return own(module, query, key, value, added(mask, query.dtype), **arguments)[0]


def added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.is_floating_point():
        return mask.to(dtype)  # the model has made its own
    # The lowest finite number, not -inf: a row of -inf alone becomes NaN, and so does -inf in float16 sums.
    lowest = torch.full((), torch.finfo(dtype).min, dtype=dtype)
    return torch.where(mask, torch.zeros((), dtype=dtype), lowest)


def _boolean(mask: torch.Tensor) -> torch.Tensor:
    """Of a mask that is added: what it leaves as it is."""
    return mask >= 0 if mask.is_floating_point() else mask


def mask_at_positions(
    position_ids: torch.Tensor, kv_length: int, mask_function: Callable[..., Any], padding: torch.Tensor | None
) -> torch.Tensor:
    """transformers' mask function at the tokens' true positions, [batch, 1, tokens, slots]; padded rows see nothing."""
    batch, tokens = position_ids.shape
    rows = torch.arange(batch)[:, None, None, None]
    queries = position_ids[:, None, :, None]
    slots = torch.arange(kv_length)[None, None, None, :]
    mask = mask_function(rows, torch.zeros(1, 1, 1, 1, dtype=torch.long), queries, slots) & (queries >= 0)
    if padding is not None:
        mask = mask & padding[:, None, None, :].bool()
    return mask.expand(batch, 1, tokens, kv_length)


def causal_mask(position_ids: torch.Tensor, slots: int) -> torch.Tensor:
    """Each token sees itself and what went before it, for families that make no mask by transformers' functions."""
    return mask_at_positions(position_ids, slots, masking_utils.causal_mask_function, None)


def _mask_maker(original: Callable[..., Any], *, additive: bool) -> Callable[..., Any]:
    """An entry of the mask table: ours when the offset is our position_ids, else transformers' own."""

    def make(
        batch_size: int,
        q_length: int,
        kv_length: int,
        q_offset: Any = 0,
        kv_offset: int = 0,
        mask_function: Callable[..., Any] = masking_utils.causal_mask_function,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | None:
        if not (isinstance(q_offset, torch.Tensor) and q_offset.dim() == 2):
            # "No mask needed" is an answer that only PyTorch's own attention understands.
            kwargs["allow_is_causal_skip"] = False
            return original(
                batch_size=batch_size,
                q_length=q_length,
                kv_length=kv_length,
                q_offset=q_offset,
                kv_offset=kv_offset,
                mask_function=mask_function,
                attention_mask=attention_mask,
                **kwargs,
            )
        mask = mask_at_positions(q_offset, kv_length, mask_function, attention_mask)
        return added(mask, kwargs.get("dtype", torch.float32)) if additive else mask

    return make


def dense_experts(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Every expert sees every token and the routing weights select: no shape depends on data.

    hidden_states[T,D], top_k_index and top_k_weights[T,K]; the weights are transformers' merged expert tensors.
    """
    tokens = hidden_states.shape[0]
    experts = self.num_experts if hasattr(self, "num_experts") else self.down_proj.shape[0]
    routing = torch.zeros(tokens, experts, dtype=top_k_weights.dtype).scatter_add(1, top_k_index, top_k_weights)
    up = self.gate_up_proj if self.has_gate else self.up_proj
    inner = torch.matmul(hidden_states[None], up if self.is_transposed else up.transpose(1, 2))
    if self.has_bias:
        inner = inner + (self.gate_up_proj_bias if self.has_gate else self.up_proj_bias)[:, None]
    inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
    out = torch.matmul(inner, self.down_proj if self.is_transposed else self.down_proj.transpose(1, 2))
    if self.has_bias:
        out = out + self.down_proj_bias[:, None]
    if getattr(self, "has_post_expert_norm", False):
        out = self.post_expert_norm(out)
    return (out * routing.t()[:, :, None].to(out.dtype)).sum(0).to(hidden_states.dtype)


@contextlib.contextmanager
def interfaces(choice: AttentionChoice) -> Iterator[None]:
    """Our attention, masks and experts are registered inside the block; the tables are as before after it."""
    masks = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    tables: list[dict[str, Any]] = [
        table._global_mapping for table in (ALL_ATTENTION_FUNCTIONS, masks, ALL_EXPERTS_FUNCTIONS)
    ]
    before = [dict(table) for table in tables]
    attention_table, mask_table, experts = tables
    attention_table[NAME] = choice
    # A name that is missing from the mask table silently means "no mask", so ours is entered too.
    mask_table[NAME] = _mask_maker(masking_utils.sdpa_mask, additive=False)
    mask_table["eager"] = _mask_maker(masking_utils.eager_mask, additive=True)
    mask_table["sdpa"] = _mask_maker(masking_utils.sdpa_mask, additive=False)
    experts[NAME] = dense_experts
    try:
        yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)


def use(model: nn.Module, implementation: str, experts: str = NAME) -> None:
    """Let every part of the model look its attention up under `implementation`, and its experts under `experts`."""
    for config in configs(model):
        config._attn_implementation_internal = implementation
        config._experts_implementation_internal = experts


def use_its_own(model: nn.Module) -> None:
    """The model computes as it was written, without the tables that `interfaces` fills."""
    use(model, "eager", experts="eager")


def configs(model: nn.Module) -> Iterator[Any]:
    """Every configuration that some part of the model holds."""
    seen: dict[int, Any] = {}
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        pending = [config] if hasattr(config, "_attn_implementation_internal") else []
        while pending:
            item = pending.pop()
            if id(item) in seen:
                continue
            seen[id(item)] = item
            pending += [sub for name in item.sub_configs if (sub := getattr(item, name, None)) is not None]
    yield from seen.values()
