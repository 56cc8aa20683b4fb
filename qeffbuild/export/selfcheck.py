"""A small random model of the same kind, run as the trace will run it and as PyTorch runs it: do they agree?

Two ragged rows are prefilled in two chunks (the second holds nothing for one of them), then decoded token by token.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from qeffbuild.export.adapted import adapted
from qeffbuild.export.decoder import Decoder, without_cache
from qeffbuild.export.interfaces import AttentionChoice, interfaces, use, use_its_own
from qeffbuild.export.recipes import Recipe
from qeffbuild.export.shrink import WORDS
from qeffbuild.export.states import CacheForm

PROMPTS, DECODED, CHUNK = (11, 5), 3, 6
CTX_LEN = 17
TOLERANCE = 1e-4


class Disagreement(Exception):
    """What would be traced computes something else than the model; the message says how far apart they are."""


@torch.no_grad()
def reference(model: nn.Module) -> list[torch.Tensor]:
    """What the model itself says at each position of each row, all tokens at once and without a cache."""
    return [model(input_ids=row[None], **without_cache(model)).logits[0] for row in _rows(model)]


@torch.no_grad()
def sees_ahead(model: nn.Module, expected: list[torch.Tensor]) -> bool:
    """Whether the first tokens of a text get other logits where the rest is missing."""
    row, first = _rows(model)[0], PROMPTS[0] // 2
    use(model, "eager")
    with interfaces(AttentionChoice()):
        alone = model(input_ids=row[None, :first], **without_cache(model)).logits[0]
    return float((alone - expected[0][:first]).abs().max() / expected[0].std()) > 100 * TOLERANCE


@torch.no_grad()
def check(
    model: nn.Module, form: CacheForm, recipe: Recipe, expected: list[torch.Tensor]
) -> tuple[AttentionChoice, float]:
    """Raise Disagreement unless the recipe gives `expected`; else say which attention is fused, and the error."""
    use(model, recipe.attention)
    choice = AttentionChoice()
    decoder = Decoder(model, form, recipe)
    with interfaces(choice), adapted(model):
        choice.measuring = True
        _measure(decoder)
        choice.measuring = False
        error = max(_errors(decoder, expected))
    if not error < TOLERANCE and not error < _noise(model, expected, error):
        raise Disagreement(f"logits differ from PyTorch's by {error:.1e} of their spread")
    return choice, error


@torch.no_grad()
def _noise(model: nn.Module, expected: list[torch.Tensor], error: float) -> float:
    """Twice what PyTorch's float32 is from its float64, where `error` can be that: a few models amplify rounding."""
    if error > 100 * TOLERANCE:
        return 0.0
    wide = copy.deepcopy(model).double()
    use_its_own(wide)
    try:
        exact = reference(wide)
    except Exception:  # its code insists on float32
        return 0.0
    return 2 * max(float((ours - right).abs().max() / right.std()) for ours, right in zip(expected, exact, strict=True))


def _rows(model: Any) -> list[torch.Tensor]:
    """Any tokens will do, but no two rows and no two positions alike, and none that stands for padding."""
    config = model.config.get_text_config(decoder=True)
    padding, vocabulary = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", WORDS)
    words = torch.tensor([word for word in range(min(WORDS, vocabulary)) if word != padding])
    places = [torch.arange(length + DECODED) * (37 + row) + 11 * row + 20 for row, length in enumerate(PROMPTS)]
    return [words[place % len(words)] for place in places]


def _measure(decoder: Decoder) -> None:
    """One plain prefill without padding, in which both forms of attention are computed and compared."""
    if decoder.recipe.recompute:
        return
    tokens = _rows(decoder.model)[0][: PROMPTS[0]].repeat(2, 1)
    positions = torch.arange(PROMPTS[0]).repeat(2, 1)
    decoder(tokens, positions, positions, [spec.zeros(2, CTX_LEN) for spec in decoder.form.states])


def _errors(decoder: Decoder, expected: list[torch.Tensor]) -> Iterator[float]:
    states = [spec.zeros(len(PROMPTS), CTX_LEN) for spec in decoder.form.states]
    rows = _rows(decoder.model)
    for starts, stops in _schedule():
        width = max(stop - start for start, stop in zip(starts, stops, strict=True))
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        positions = torch.full((len(rows), width), -1)
        for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            tokens[row, : stop - start] = rows[row][start:stop]
            positions[row, : stop - start] = torch.arange(start, stop)
        index = torch.arange(width).repeat(len(rows), 1)
        logits, *states = decoder(tokens, positions, index, states)
        for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            wanted = expected[row]
            difference = (logits[row, : stop - start] - wanted[start:stop]).abs()
            if stop > start:
                yield float(difference.max() / wanted.std())


def _schedule() -> Iterator[tuple[list[int], list[int]]]:
    """For each step, where each row starts and stops: chunks of the prompt, then single tokens."""
    done = [0 for _ in PROMPTS]
    while any(at < length for at, length in zip(done, PROMPTS, strict=True)):
        stops = [min(at + CHUNK, length) for at, length in zip(done, PROMPTS, strict=True)]
        yield done, stops
        done = stops
    for step in range(DECODED):
        yield [n + step for n in PROMPTS], [n + step + 1 for n in PROMPTS]
