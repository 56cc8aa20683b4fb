"""A model that hears -> its input of sound: samples or features, how they lie, and how long they may be.

No list says so: the encoder is run on sounds of several forms, and takes those that fit it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch

from qeffbuild.signature import Axis, Tensor

SAMPLES, FEATURES, LENGTH = "input_values", "input_features", "seq_len"
# Long enough that convolutions leave some frames; two, no multiple of one another, show that any length does.
LENGTHS = {SAMPLES: (4801, 6400), FEATURES: (331, 400)}
ONE_DECODER = "no encoder and decoder: what it hears goes among the words that one decoder reads"
_STRIDES = (1, 2, 4, 8)
_OF_POSITIONS = ("max_source_positions", "max_position_embeddings")


def sound_of(model: Any) -> Tensor:
    """[batch, samples], [batch, frames, width] or [batch, width, frames]; a number of frames where only that fits."""
    if not model.config.is_encoder_decoder:
        raise ValueError(ONE_DECODER)
    encoder = model.get_encoder()
    name = getattr(encoder, "main_input_name", None)
    name = name if name in LENGTHS else model.main_input_name
    if name not in LENGTHS:
        raise ValueError(f"its encoder reads {name}, which is neither samples nor features of a sound")
    problem: Exception | None = None
    for axes in _forms(name, encoder, model):
        tensor = Tensor(name=name, dtype="float32", axes=axes)
        try:
            with _quiet():
                for length in LENGTHS[name] if LENGTH in axes else (0,):
                    encoder(silence(tensor, length))
        except Exception as reason:  # whatever a family's code says to a form that is not its own
            problem = problem or reason
            continue
        return tensor
    raise ValueError(f"its encoder takes no {name} of a form that we know: {problem}") from problem


def is_free(tensor: Tensor) -> bool:
    """Whether a sound may be of any length."""
    return LENGTH in tensor.axes


def silence(tensor: Tensor, length: int, rows: int = 1) -> torch.Tensor:
    sizes = {"batch_size": rows, LENGTH: length}
    return torch.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes])


def wave(tensor: Tensor, number: int = 0) -> torch.Tensor:
    """One row of sound, the same each time; where it may be of any length, no two are as long."""
    shape = silence(tensor, LENGTHS[tensor.name][number % 2]).shape
    count = shape.numel()
    return torch.sin((torch.arange(count) + number * count) ** 1.1 / 50).reshape(shape)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside the block nobody hears of operators that were given sizes that they do not take."""
    fake = logging.getLogger("torch._subclasses.fake_tensor")
    before, fake.disabled = fake.disabled, True
    try:
        yield
    finally:
        fake.disabled = before


def _forms(name: str, encoder: Any, model: Any) -> Iterator[tuple[Axis, ...]]:
    if name == SAMPLES:
        yield ("batch_size", LENGTH)
        return
    configs = [getattr(part, "config", None) for part in (encoder, model)]
    said = {key: value for config in configs for key, value in vars(config).items() if type(value) is int}
    widths = [value for key, value in said.items() if "mel" in key or "feat" in key]
    for width in dict.fromkeys(widths):
        yield ("batch_size", LENGTH, width)
        yield ("batch_size", width, LENGTH)
    positions = [said[key] for key in _OF_POSITIONS if key in said]
    for width in dict.fromkeys(widths):
        for frames in dict.fromkeys(most * stride for most in positions for stride in _STRIDES):
            yield ("batch_size", width, frames)
            yield ("batch_size", frames, width)
