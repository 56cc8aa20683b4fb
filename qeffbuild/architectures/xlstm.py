"""The matrix memory as a retained state, met token by token: the family's kernels count chunks of a text."""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

import torch
from transformers.models.xlstm.modeling_xlstm import xLSTMLayer, xLSTMModel

from qeffbuild.export.cache import CarryingCache, carried
from qeffbuild.export.loops import each_token

MODEL, LAYER = xLSTMModel.forward, xLSTMLayer.forward


class Memories(CarryingCache):
    """`rnn_state[layer]` is the memory of a layer. There is nothing to iterate over in one: its layer writes it."""

    seqlen_offset = 0

    def __init__(self, config: Any, max_batch_size: int, **kwargs: Any) -> None:
        super().__init__(config.num_blocks, states=3)

    @property
    def rnn_state(self) -> list[Memory]:
        return [Memory(self, index) for index in range(len(self.layers))]


class Memory(tuple[()]):
    cache: Any
    layer_idx: int

    def __new__(cls, cache: Memories, layer_idx: int) -> Memory:
        made = super().__new__(cls)
        made.cache, made.layer_idx = cache, layer_idx
        return made


@wraps(MODEL)
def model(self: Any, *args: Any, **kwargs: Any) -> Any:
    """In one piece, as a model goes that collects what it finds: else it would count pieces of the text."""
    most, self.config.max_inference_chunksize = self.config.max_inference_chunksize, sys.maxsize
    try:
        return MODEL(self, *args, **{**kwargs, "output_hidden_states": True})
    finally:
        self.config.max_inference_chunksize = most


def layer(self: Any, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
    """x [B,S,D]. The states are the memory [B,H,K,V], its norm [B,H,K] and its scale [B,H,1]."""
    if not isinstance(state, Memory):
        return LAYER(self, x, state)
    heads = self.config.num_heads
    sizes = (heads, self.qk_dim // heads, self.v_dim // heads), (heads, self.qk_dim // heads), (heads, 1)

    def one(x: torch.Tensor) -> torch.Tensor:
        likes = [x.new_zeros(x.shape[0], *size).float() for size in sizes]
        found: Any = [carried(state.cache, state.layer_idx, like, i) for i, like in enumerate(likes)]
        out, left = LAYER(self, x, found)
        for i, new in enumerate(left or ()):
            state.cache.update_recurrent_state(new, state.layer_idx, i)
        return out

    return each_token(one, x), state


REPLACED = {"xLSTMModel.forward": model, "xLSTMLayer.forward": layer, "xLSTMCache": Memories}
