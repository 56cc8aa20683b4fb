"""The two symbolic operations of a neutral graph: as PyTorch operators, and their translation to ONNX.

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
    """cache[B,K,C,D] with updates[B,K,S,D] written at position_ids[B,S]; a negative position is not written."""
    out = cache.clone()
    for row, positions in enumerate(position_ids):
        valid = positions >= 0
        out[row][:, positions[valid]] = updates[row][:, valid].to(out.dtype)
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


def _register_schemas() -> None:
    """Tell onnx the two signatures, so that onnxscript can build the nodes."""
    tensor, attr = OpSchema.FormalParameter, OpSchema.Attribute
    floats = ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")
    scatter = OpSchema(
        "CtxScatter",
        DOMAIN,
        VERSION,
        inputs=[tensor("cache", "T"), tensor("position_ids", "I"), tensor("updates", "T")],
        outputs=[tensor("out", "T")],
        type_constraints=[floats, ("I", ["tensor(int64)"], "")],
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
    register_schema(scatter)
    register_schema(attend)


_register_schemas()
_OPSET = values.Opset(DOMAIN, VERSION)


def _ctx_scatter_to_onnx(cache: Any, position_ids: Any, updates: Any) -> Any:
    return _OPSET.CtxScatter(cache, position_ids, updates)


def _attention_to_onnx(query: Any, key: Any, value: Any, mask: Any, scale: float, softcap: float) -> Any:
    return _OPSET.Attention(query, key, value, mask, scale=scale, softcap=softcap)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.qeffbuild.ctx_scatter.default: _ctx_scatter_to_onnx,
    torch.ops.qeffbuild.attention.default: _attention_to_onnx,
}
