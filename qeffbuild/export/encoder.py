"""Models that read all of their input at once -> modules from flat tensors to one: embeddings, scores, logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from qeffbuild.export.carried import Call, Reading
from qeffbuild.export.ends import at, text_as_the_head_reads_it
from qeffbuild.export.modules import Traceable
from qeffbuild.export.sound import FEATURES, SAMPLES
from qeffbuild.export.states import accepts
from qeffbuild.signature import Tensor

_ROWS = ("batch_size", "seq_len")
IDS = Tensor(name="input_ids", dtype="int64", axes=_ROWS)
MASK = Tensor(name="attention_mask", dtype="int64", axes=_ROWS)
TYPES = Tensor(name="token_type_ids", dtype="int64", axes=_ROWS)
# A trace of sound needs some frames to be left after the convolutions, one of a text some tokens where they are pooled.
_LEAST = {SAMPLES: 4097, FEATURES: 131, IDS.name: 19}


def embedder(model: Any, pooling: str, reading: Reading, *, normalize: bool) -> Traceable:
    """input_ids, attention_mask -> output [batch, width], or [batch, tokens, width] without pooling."""
    inputs = _shown((IDS, MASK), reading)
    module = _Embedder(model, inputs, reading, pooling, normalize)
    return Traceable(graph="encoder", module=module, inputs=inputs, outputs=("output",), sizes=_sizes(reading))


def classifier(model: Any, reading: Reading) -> Traceable:
    """input_ids, attention_mask and, where the model tells first and second texts apart, token_type_ids -> logits."""
    has_types = accepts(model, TYPES.name) and (getattr(model.config, "type_vocab_size", 0) or 0) > 1
    inputs = _shown((IDS, MASK, TYPES) if has_types else (IDS, MASK), reading)
    module = _Judge(model, inputs, reading)
    return Traceable(graph="encoder", module=module, inputs=inputs, outputs=("logits",), sizes=_sizes(reading))


def listener(model: Any) -> Traceable:
    """Samples [batch, samples], or features [batch, frames, bands] -> logits [batch, frames, characters]."""
    name = model.main_input_name
    axes = _ROWS if name == SAMPLES else (*_ROWS, _bands(model))
    sound = Tensor(name=name, dtype="float32", axes=axes)
    return Traceable(
        graph="encoder",
        module=_Judge(model, (sound,), Reading()),
        inputs=(sound,),
        outputs=("logits",),
        sizes={"seq_len": _LEAST[name]},
    )


def _bands(model: Any) -> int:
    """How many numbers stand for a frame of sound: what its first module takes, else what the configuration says."""
    first = next(module for module in model.modules() if module._parameters and not module._modules)
    if isinstance(first, nn.Linear):
        return first.in_features
    if isinstance(first, nn.LayerNorm):
        return first.normalized_shape[-1]
    parts = [model.config, *(getattr(model.config, name, None) for name in type(model.config).sub_configs)]
    known: int = next(part.num_mel_bins for part in parts if hasattr(part, "num_mel_bins"))
    return known


def _shown(inputs: tuple[Tensor, ...], reading: Reading) -> tuple[Tensor, ...]:
    """Where texts go alone there is nothing to mask."""
    return tuple(tensor for tensor in inputs if not (reading.is_alone and tensor is MASK))


def _sizes(reading: Reading) -> dict[str, int] | None:
    return {"seq_len": _LEAST[IDS.name]} if reading.is_alone else None


class _Reader(nn.Module):
    """A model, and the names of what it is given, in their order."""

    def __init__(self, model: Any, inputs: Sequence[Tensor], reading: Reading) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(tensor.name for tensor in inputs)
        self.reading = reading

    def given(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        by_name = dict(zip(self.names, tensors, strict=True))
        if self.reading.is_alone:
            by_name[MASK.name] = torch.ones_like(by_name[IDS.name])
        return by_name


class _Judge(_Reader):
    """The model's logits."""

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        call = Call(self.model, self.reading)
        with text_as_the_head_reads_it(self.model, self.given(tensors)) as given, call.arguments(given) as arguments:
            return (call.held(self.model(**arguments).logits),)


class _Embedder(_Reader):
    def __init__(self, model: Any, inputs: Sequence[Tensor], reading: Reading, pooling: str, normalize: bool) -> None:
        super().__init__(model, inputs, reading)
        self.pooling = pooling
        self.normalize = normalize

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given, call = self.given(tensors), Call(self.model, self.reading)
        with call.arguments(given) as arguments:
            hidden = call.held(self.model(**arguments)[0])
        if self.pooling != "none" and hidden.dtype != torch.float32:
            hidden = hidden.float()  # a sum over tokens, and their count, in full
        pooled = pool(hidden, given[MASK.name], self.pooling)
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
        return at(hidden, (mask.sum(dim=1) - 1).clamp(min=0))
    assert how == "none", how
    return hidden
