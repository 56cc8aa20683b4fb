"""Models that read all of their input at once -> modules from flat tensors to one: embeddings, scores, logits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from qeffbuild.export.modules import Traceable
from qeffbuild.export.states import accepts
from qeffbuild.signature import Tensor

_ROWS = ("batch_size", "seq_len")
IDS = Tensor(name="input_ids", dtype="int64", axes=_ROWS)
MASK = Tensor(name="attention_mask", dtype="int64", axes=_ROWS)
TYPES = Tensor(name="token_type_ids", dtype="int64", axes=_ROWS)
SOUND = Tensor(name="input_values", dtype="float32", axes=_ROWS)
# A trace of sound needs some frames to be left after the convolutions.
_SAMPLES = 4097
_NO_WORD = -1


def embedder(model: Any, pooling: str, *, normalize: bool) -> Traceable:
    """input_ids, attention_mask -> output [batch, width], or [batch, tokens, width] without pooling."""
    return Traceable(
        graph="encoder", module=_Embedder(model, pooling, normalize), inputs=(IDS, MASK), outputs=("output",)
    )


def classifier(model: Any) -> Traceable:
    """input_ids, attention_mask and, where the model tells first and second texts apart, token_type_ids -> logits."""
    has_types = accepts(model, TYPES.name) and (getattr(model.config, "type_vocab_size", 0) or 0) > 1
    inputs = (IDS, MASK, TYPES) if has_types else (IDS, MASK)
    kind = _EndsWithPadding if _reads_padding(model) else _Named
    return Traceable(graph="encoder", module=kind(model, inputs), inputs=inputs, outputs=("logits",))


def listener(model: Any) -> Traceable:
    """input_values [batch, samples] -> logits [batch, frames, characters]."""
    return Traceable(
        graph="encoder",
        module=_Named(model, (SOUND,)),
        inputs=(SOUND,),
        outputs=("logits",),
        sizes={"seq_len": _SAMPLES},
    )


def _reads_padding(model: Any) -> bool:
    """Whether the head looks for padding among the tokens: its forward, or the one that it calls on, says so."""
    forwards = [vars(cls)["forward"] for cls in type(model).__mro__ if "forward" in vars(cls)]
    return any("pad_token_id" in inspect.getsource(forward) for forward in forwards)


class _Named(nn.Module):
    """The model's logits, from its inputs in their order."""

    def __init__(self, model: Any, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(tensor.name for tensor in inputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arguments: dict[str, Any] = dict(zip(self.names, tensors, strict=True))
        if accepts(self.model, "use_cache"):
            arguments["use_cache"] = False
        return (self.model(**arguments).logits,)


class _EndsWithPadding(_Named):
    """The same of a model that judges a text by its last token: the last one that is not padding, as it knows that."""

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        input_ids, attention_mask, *others = tensors
        with _padding_of(self.model) as padding:
            return super().forward(torch.where(attention_mask > 0, input_ids, padding), attention_mask, *others)


@contextmanager
def _padding_of(model: Any) -> Iterator[int]:
    """The token that the model takes for padding; where it knows none, no word, embedded as the first is."""
    configs = (model.config, model.config.get_text_config())
    if configs[1].pad_token_id is not None:
        yield configs[1].pad_token_id
        return
    embedding = model.get_input_embeddings()
    hook = embedding.register_forward_pre_hook(lambda module, given: (given[0].clamp(min=0), *given[1:]))
    for config in configs:
        config.pad_token_id = _NO_WORD
    try:
        yield _NO_WORD
    finally:
        hook.remove()
        for config in configs:
            config.pad_token_id = None


class _Embedder(nn.Module):
    def __init__(self, model: Any, pooling: str, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.normalize = normalize

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        input_ids, attention_mask = tensors
        arguments = {"use_cache": False} if accepts(self.model, "use_cache") else {}
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **arguments)[0]
        if self.pooling != "none" and hidden.dtype != torch.float32:
            hidden = hidden.float()  # a sum over tokens, and their count, in full
        pooled = pool(hidden, attention_mask, self.pooling)
        if self.normalize:
            pooled = pooled / pooled.square().sum(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)
        return (pooled,)


def pool(hidden: torch.Tensor, mask: torch.Tensor, how: str) -> torch.Tensor:
    """hidden[B,S,D] where mask[B,S] is 1 -> [B,D]; padding comes last in a row."""
    shown = mask[:, :, None].to(hidden.dtype)
    if how == "mean":
        return (hidden * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1e-9)
    if how == "max":
        return torch.where(shown > 0, hidden, torch.finfo(torch.float16).min).amax(dim=1)
    if how == "cls":
        return hidden[:, 0]
    if how == "last":
        last = (mask.sum(dim=1) - 1).clamp(min=0)
        return torch.gather(hidden, 1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
    assert how == "none", how
    return hidden
