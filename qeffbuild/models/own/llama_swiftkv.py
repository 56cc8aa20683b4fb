"""Llama with SwiftKV: later layers take keys and values from what enters the first of them, not from the one before.

So all keys and values of a prompt are there half way through the layers, and only tokens whose logits are asked for go
on. Published in https://arxiv.org/abs/2410.03960; layers of a group (AcrossKV) share the keys and values of its first.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

# Whose keys and values a layer reads: those of its own input, those it makes of what enters, those of the layer before.
OWN, FIRST, NEXT = "own", "first", "next"

Pair = tuple[torch.Tensor, torch.Tensor]


@strict
class LlamaSwiftKVConfig(LlamaConfig):
    """`key_value_kinds` says the same as the numbers, layer by layer, and wins over them where both are given."""

    model_type = "llama_swiftkv"

    swiftkv: bool = False
    num_key_value_layers: int | None = None
    key_value_group_size: int | None = None
    key_value_kinds: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.num_key_value_layers is None:
            self.num_key_value_layers = self.num_hidden_layers
        if self.key_value_group_size is None:
            self.key_value_group_size = 1
        if self.key_value_kinds is None:
            self.key_value_kinds = self._kinds()

    def _kinds(self) -> list[str]:
        """One of OWN, FIRST and NEXT per layer. Without `swiftkv` the model is the Llama that it is trained from."""
        layers, own, group = self.num_hidden_layers, self.num_key_value_layers or 0, self.key_value_group_size or 0
        if not self.swiftkv:
            return [OWN] * layers
        if not 1 <= own <= layers or group < 1 or (layers - own) % group:
            raise ValueError(
                f"num_key_value_layers {own} of {layers} layers leave no whole groups of key_value_group_size {group}"
            )
        return [OWN] * own + ([FIRST] + [NEXT] * (group - 1)) * ((layers - own) // group)


class LlamaSwiftKVAttention(nn.Module):
    """Queries of the layer's own input [B, L, D]; keys and values of what entered the first such layer [B, S, D]."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.is_first = config.key_value_kinds[layer_idx] == FIRST
        width, bias = config.hidden_size, config.attention_bias
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj_swiftkv = nn.Linear(width, queries, bias=bias)
        if self.is_first:
            self.k_proj_swiftkv = nn.Linear(width, keys, bias=bias)
            self.v_proj_swiftkv = nn.Linear(width, keys, bias=bias)
        self.o_proj = nn.Linear(queries, width, bias=bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        entered: torch.Tensor,
        shared: Pair | None,
        turns: tuple[Pair, Pair],
        attention_mask: torch.Tensor | None,
        past_key_values: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Pair | None]:
        """`turns` are cosines and sines of the chosen tokens and of all; the second result is for the next layer."""
        of_chosen, of_all = turns
        query = self._heads(self.q_proj_swiftkv(hidden_states))
        query, _ = apply_rotary_pos_emb(query, query, *of_chosen)
        if self.is_first:
            key = self._heads(self.k_proj_swiftkv(entered))
            key, _ = apply_rotary_pos_emb(key, key, *of_all)
            shared = (key, self._heads(self.v_proj_swiftkv(entered)))
            if past_key_values is not None:
                shared = past_key_values.update(*shared, self.layer_idx)
        assert shared is not None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        out, _ = attend(self, query, *shared, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), shared

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        return projected.view(*projected.shape[:-1], -1, self.head_dim).transpose(1, 2)


class LlamaSwiftKVDecoderLayer(GradientCheckpointingLayer):
    """A layer without keys and values of its own input."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = LlamaSwiftKVAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, Pair | None]:
        attended, shared = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)), shared


class LlamaSwiftKVModel(LlamaModel):
    config_class = LlamaSwiftKVConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for number, kind in enumerate(config.key_value_kinds):
            if kind != OWN:
                self.layers[number] = LlamaSwiftKVDecoderLayer(config, number)
        self.norm_swiftkv = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_index: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """logits_index[B, L] are the tokens of each row that go through all layers; None: every token does."""
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(hidden_states.shape[1], device=hidden_states.device) + past)[None]
        mask: Any = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        of_all = self.rotary_emb(hidden_states, position_ids=position_ids)
        own = self.config.key_value_kinds.count(OWN)
        common = {"past_key_values": past_key_values, **kwargs}
        for layer in self.layers[:own]:
            hidden_states = layer(hidden_states, attention_mask=mask, position_embeddings=of_all, **common)
        entered, of_chosen, shared = self.norm_swiftkv(hidden_states), of_all, None
        if logits_index is not None:
            hidden_states = _chosen(hidden_states, logits_index)
            of_chosen = tuple(_chosen(table.expand(logits_index.shape[0], -1, -1), logits_index) for table in of_all)
            mask = None if mask is None else _chosen_rows(mask, logits_index)
        given: dict[str, Any] = {"entered": entered, "turns": (of_chosen, of_all), "attention_mask": mask, **common}
        for layer in self.layers[own:]:
            hidden_states, shared = layer(hidden_states, shared=shared, **given)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class LlamaSwiftKVForCausalLM(LlamaForCausalLM):
    config_class = LlamaSwiftKVConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = LlamaSwiftKVModel(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_index: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """logits_index[B, L]: logits of these tokens of each row, in their order; logits_to_keep: of the last ones."""
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            logits_index=logits_index,
        )
        logits = self.lm_head(found.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=found.past_key_values)


def _chosen(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """rows[B,S,X], index[B,L] -> [B,L,X]."""
    return torch.gather(rows, 1, index[:, :, None].expand(-1, -1, rows.shape[-1]))


def _chosen_rows(mask: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """mask[B,1,S,C], index[B,L] -> [B,1,L,C]."""
    return torch.gather(mask, 2, index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))


CONFIG, MODEL = LlamaSwiftKVConfig, LlamaSwiftKVForCausalLM
