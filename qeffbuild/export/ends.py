"""Heads that judge a text by one of its tokens: the last that is no padding, or the last that ends a text.

They look for it among the token ids, as they know padding and ends; a graph knows by its mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_NO_WORD = -1


@contextmanager
def text_as_the_head_reads_it(model: Any, given: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """What to call the model with inside of the block, of `given` input_ids, attention_mask and whatever else.

    What is masked becomes the token that the model takes for padding.
    """
    ends, pads = _reads(model, "eos_token_id"), _reads(model, "pad_token_id")
    if "input_ids" not in given or not (ends or pads):
        yield dict(given)
        return
    shown = given["attention_mask"]
    with _padding_of(model) as padding, _LastPicked(shown) if ends else nullcontext():
        yield {**given, "input_ids": torch.where(shown > 0, given["input_ids"], padding)}


def at(hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """hidden[B,S,D], one place for each row -> [B,D]."""
    return torch.gather(hidden, 1, places[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]


def _reads(model: Any, token: str) -> bool:
    """Whether the head looks for this token in a text: its forward, or the one that it calls on, says so."""
    forwards = [vars(cls)["forward"] for cls in type(model).__mro__ if "forward" in vars(cls)]
    return any(token in inspect.getsource(forward) for forward in forwards)


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


class _LastPicked(TorchFunctionMode):
    """Inside the block, of the hidden states that a mask of end tokens picks, each row has its last one only.

    The heads of BART and T5 pick all of them and count them first: how many there are, no trace can tell. A text
    without an end token, which they refuse, is judged by its last token.
    """

    def __init__(self, shown: torch.Tensor) -> None:
        super().__init__()
        self.shown = shown

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.unique_consecutive:
            return args[0][:1]
        if func is torch.Tensor.__getitem__ and isinstance(args[1], tuple) and _is_mask(args[1][0]):
            hidden, (picked, *_) = args
            last = (torch.arange(1, hidden.shape[1] + 1) * picked * self.shown).amax(dim=1)
            last = torch.where(last > 0, last, self.shown.sum(dim=1))
            return at(hidden, (last - 1).clamp(min=0))
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool
