"""The symbolic operations of a neutral graph: as PyTorch operators, and their translation to ONNX.

A backend lowers them in its own way (portable ONNX, fused kernels, a vendor's form), so each stays one node.
Axes: B batch, K key heads, N query heads, S new tokens, C context slots, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnx.defs import OpSchema, register_schema
from onnxscript import values

DOMAIN, VERSION = "qeffbuild", 1


@torch.library.custom_op("qeffbuild::ctx_scatter", mutates_args=())
def ctx_scatter(cache: torch.Tensor, position_ids: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    """cache[B,(K,)C,D] with updates[B,(K,)S,D] written at position_ids[B,S]; a negative position is not written."""
    out = cache.clone()
    for row, positions in enumerate(position_ids):
        valid = positions >= 0
        out[row][..., positions[valid], :] = updates[row][..., valid, :].to(out.dtype)
    return out


@ctx_scatter.register_fake
def _(cache: torch.Tensor, position_ids: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(cache)


@torch.library.custom_op("qeffbuild::attention", mutates_args=())
def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float
) -> torch.Tensor:
    """softmax(cap(query[B,N,S,D] key[B,K,C,D]^T scale)) value, where mask[B,1,S,C] is true, as [B,S,N,D of value].

    N is a multiple of K; query heads in a row share a key head. `softcap` 0 means none, else tanh(x / cap) * cap.
    """
    batch, heads, tokens, width = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * tokens, width)
    scores = (grouped @ key.transpose(2, 3)).reshape(batch, heads, tokens, -1) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    out = weights.reshape(batch, kv_heads, heads // kv_heads * tokens, -1) @ value
    return out.reshape(batch, heads, tokens, -1).transpose(1, 2).contiguous()


@attention.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float
) -> torch.Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


@torch.library.custom_op("qeffbuild::token", mutates_args=())
def token(whole: torch.Tensor) -> torch.Tensor:
    """Where a loop over tokens begins: whole[B,S,...] -> [B,1,...], the token of this turn."""
    return whole[:, :1].clone()


@token.register_fake
def _(whole: torch.Tensor) -> torch.Tensor:
    return whole.new_empty((whole.shape[0], 1, *whole.shape[2:]))


@torch.library.custom_op("qeffbuild::tokens", mutates_args=())
def tokens(one: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """Where a loop over tokens ends: one[B,1,...] of every turn -> [B,S,...]."""
    return one.repeat_interleave(position_ids.shape[1], dim=1)


@tokens.register_fake
def _(one: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    return one.new_empty((one.shape[0], position_ids.shape[1], *one.shape[2:]))


@torch.library.custom_op("qeffbuild::state_in", mutates_args=())
def state_in(state: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """state[B,...] as a turn of the loop finds it: zeros where the token is a text's first."""
    return state * (position_ids[:, 0] != 0).reshape(-1, *[1] * (state.dim() - 1))


@state_in.register_fake
def _(state: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(state)


@torch.library.custom_op("qeffbuild::state_out", mutates_args=())
def state_out(state: torch.Tensor, new: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """state[B,...] as a turn of the loop leaves it: `new`, or as it was where the token is padding."""
    is_padding = (position_ids[:, 0] < 0).reshape(-1, *[1] * (state.dim() - 1))
    return torch.where(is_padding, state, new.to(state.dtype))


@state_out.register_fake
def _(state: torch.Tensor, new: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(state)


def _register_schemas() -> None:
    """Tell onnx the signatures, so that onnxscript can build the nodes."""
    tensor, attr = OpSchema.FormalParameter, OpSchema.Attribute
    floats = ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")
    kept = ("T", [*floats[1], "tensor(int64)"], "")
    scatter = OpSchema(
        "CtxScatter",
        DOMAIN,
        VERSION,
        inputs=[tensor("cache", "T"), tensor("position_ids", "I"), tensor("updates", "T")],
        outputs=[tensor("out", "T")],
        type_constraints=[kept, ("I", ["tensor(int64)"], "")],
    )
    attend = OpSchema(
        "Attention",
        DOMAIN,
        VERSION,
        inputs=[tensor("query", "T"), tensor("key", "T"), tensor("value", "T"), tensor("mask", "M")],
        outputs=[tensor("out", "T")],
        type_constraints=[floats, ("M", ["tensor(bool)"], "")],
        attributes=[
            attr("scale", OpSchema.AttrType.FLOAT, required=True),
            attr("softcap", OpSchema.AttrType.FLOAT, required=True),
        ],
    )
    every = ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(int64)", "tensor(bool)"], "")
    positions, index = tensor("position_ids", "I"), ("I", ["tensor(int64)"], "")
    loops = {
        "Token": [tensor("whole", "T")],
        "Tokens": [tensor("one", "T"), positions],
        "StateIn": [tensor("state", "T"), positions],
        "StateOut": [tensor("state", "T"), tensor("new", "T"), positions],
    }
    for name, inputs in loops.items():
        types = [every, index] if positions in inputs else [every]
        register_schema(
            OpSchema(name, DOMAIN, VERSION, inputs=inputs, outputs=[tensor("out", "T")], type_constraints=types)
        )
    register_schema(scatter)
    register_schema(attend)


_register_schemas()
_OPSET = values.Opset(DOMAIN, VERSION)


def _ctx_scatter_to_onnx(cache: Any, position_ids: Any, updates: Any) -> Any:
    return _OPSET.CtxScatter(cache, position_ids, updates)


def _attention_to_onnx(query: Any, key: Any, value: Any, mask: Any, scale: float, softcap: float) -> Any:
    return _OPSET.Attention(query, key, value, mask, scale=scale, softcap=softcap)


def _token_to_onnx(whole: Any) -> Any:
    return _OPSET.Token(whole)


def _tokens_to_onnx(one: Any, position_ids: Any) -> Any:
    return _OPSET.Tokens(one, position_ids)


def _state_in_to_onnx(state: Any, position_ids: Any) -> Any:
    return _OPSET.StateIn(state, position_ids)


def _state_out_to_onnx(state: Any, new: Any, position_ids: Any) -> Any:
    return _OPSET.StateOut(state, new, position_ids)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.qeffbuild.ctx_scatter.default: _ctx_scatter_to_onnx,
    torch.ops.qeffbuild.attention.default: _attention_to_onnx,
    torch.ops.qeffbuild.token.default: _token_to_onnx,
    torch.ops.qeffbuild.tokens.default: _tokens_to_onnx,
    torch.ops.qeffbuild.state_in.default: _state_in_to_onnx,
    torch.ops.qeffbuild.state_out.default: _state_out_to_onnx,
}
