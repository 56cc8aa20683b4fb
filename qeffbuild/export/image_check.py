"""A small random model of images and text, run as the traces will run it and as PyTorch runs it: do they agree?

Two ragged rows, each with an image of its own, are prefilled in two chunks and decoded token by token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qeffbuild.export.adapted import adapted
from qeffbuild.export.interfaces import AttentionChoice, interfaces, use, use_its_own
from qeffbuild.export.language import Language
from qeffbuild.export.recipes import Recipe
from qeffbuild.export.selfcheck import TOLERANCE, Disagreement
from qeffbuild.export.states import CacheForm, accepts
from qeffbuild.export.vision import Picture, Vision, features_of, looked, rows_of
from qeffbuild.models.image_positions import RULE, positions_of

BEFORE, AFTER, DECODED = (5, 9), (6, 4), 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of tokens: its positions, the embeddings of its image, and the logits that PyTorch gives."""

    tokens: torch.Tensor
    positions: torch.Tensor  # [S], or [4, S]
    vision: tuple[torch.Tensor, ...]
    expected: torch.Tensor
    image: tuple[int, int]  # where its image begins and ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the model says about two rows, and how it hands its image's embeddings on."""

    rows: tuple[Row, ...]
    is_listed: bool
    whole_prompts: bool

    @property
    def vision_size(self) -> int:
        return self.rows[0].vision[0].shape[1]


@torch.no_grad()
def reference(model: Any, picture: Picture, *, whole_prompts: bool) -> Expected:
    """PyTorch's own answers, all tokens at once and without a cache."""
    use_its_own(model)
    rows, is_listed = [], False
    for number, (before, after) in enumerate(zip(BEFORE, AFTER, strict=True)):
        pixels = picture.pixels * (1 - 0.4 * number)
        features = features_of(looked(model, pixels, picture.geometry))
        is_listed = isinstance(features, list | tuple)
        with adapted(model):
            vision = Vision(model, picture, attention="eager")(pixels)
        size = rows_of(features).shape[0]
        tokens = _tokens(model, number, before, size, after + DECODED)
        image = (before, before + size)
        expected = model(
            input_ids=tokens[None], **_asked(model, tokens, pixels, picture, whole_prompts), use_cache=False
        ).logits[0]
        positions = _positions(model, tokens, picture)
        rows.append(Row(tokens=tokens, positions=positions, vision=vision, expected=expected, image=image))
    return Expected(rows=tuple(rows), is_listed=is_listed, whole_prompts=whole_prompts)


def _tokens(model: Any, number: int, before: int, size: int, after: int) -> torch.Tensor:
    """Any tokens will do, but no two rows and no two positions alike, and none of them special."""
    half = model.config.get_text_config().vocab_size // 2  # special ones are in the other half
    text = half + (torch.arange(before + after) * (37 + number) + 11 * number + 20) % half
    image = torch.full((size,), model.config.image_token_id)
    return torch.cat([text[:before], image, text[before:]])


def _asked(
    model: Any, tokens: torch.Tensor, pixels: torch.Tensor, picture: Picture, whole_prompts: bool
) -> dict[str, Any]:
    is_image = (tokens == model.config.image_token_id).int()[None]
    asked = {"pixel_values": pixels, **picture.geometry}
    is_answer = (torch.arange(len(tokens)) >= len(tokens) - DECODED).int()[None]
    types = {"token_type_ids": is_answer if whole_prompts else is_image, "mm_token_type_ids": is_image}
    return asked | {name: value for name, value in types.items() if accepts(model, name)}


def _positions(model: Any, tokens: torch.Tensor, picture: Picture) -> torch.Tensor:
    places = torch.arange(len(tokens))
    if not hasattr(model.base_model, RULE):
        return places
    is_image = tokens == model.config.image_token_id
    return torch.cat([places[None], positions_of(model.base_model, tokens, is_image, picture.geometry)])


@torch.no_grad()
def check_vision(model: Any, picture: Picture, attention: str, expected: Expected) -> float:
    """How far the vision graph's embeddings would be from PyTorch's, of their spread."""
    with adapted(model):
        made = Vision(model, picture, attention=attention)(picture.pixels)
    pairs = zip(made, expected.rows[0].vision, strict=True)
    return max(float((ours - theirs).abs().max() / theirs.std()) for ours, theirs in pairs)


@torch.no_grad()
def check_language(
    model: Any, form: CacheForm, recipe: Recipe, expected: Expected, vision: Sequence[str], *, splitting: bool
) -> tuple[AttentionChoice, float]:
    """Raise Disagreement unless the recipe gives what is expected, with each image split over two chunks or whole."""
    use(model, recipe.attention)
    choice = AttentionChoice()
    language = Language(model, form, recipe, vision=vision, is_listed=expected.is_listed)
    with interfaces(choice), adapted(model):
        choice.measuring = True
        for _ in _errors(language, expected, splitting=False):
            break
        choice.measuring = False
        error = max(_errors(language, expected, splitting=splitting))
    if not error < TOLERANCE:
        raise Disagreement(f"logits differ from PyTorch's by {error:.1e} of their spread")
    return choice, error


def _errors(language: Language, expected: Expected, *, splitting: bool) -> Iterator[float]:
    rows = expected.rows
    ctx_len = max(len(row.tokens) for row in rows) + 4
    states = [spec.zeros(len(rows), ctx_len) for spec in language.form.states]
    vision = [torch.cat(parts) for parts in zip(*(row.vision for row in rows), strict=True)]
    image_idx = torch.zeros(len(rows), 1, dtype=torch.long)
    done = [0 for _ in rows]
    for stops in _schedule(expected, splitting=splitting):
        width = max(stop - start for start, stop in zip(done, stops, strict=True))
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        positions = torch.full((*rows[0].positions.shape[:-1], len(rows), width), -1)
        for place, (row, start, stop) in enumerate(zip(rows, done, stops, strict=True)):
            tokens[place, : stop - start] = row.tokens[start:stop]
            positions[..., place, : stop - start] = row.positions[..., start:stop]
        index = torch.arange(width).repeat(len(rows), 1)
        logits, image_idx, *states = language(tokens, positions, index, image_idx, *states, *vision)
        for place, (row, start, stop) in enumerate(zip(rows, done, stops, strict=True)):
            wanted = row.expected[start:stop]
            yield float((logits[place, : stop - start] - wanted).abs().max() / row.expected.std())
        done = stops


def _schedule(expected: Expected, *, splitting: bool) -> Iterator[list[int]]:
    """Where each step stops in each row: the prompt, in two chunks unless it is whole, then single tokens."""
    rows = expected.rows
    prompts = [len(row.tokens) - DECODED for row in rows]
    if not expected.whole_prompts:
        yield [sum(row.image) // 2 if splitting else row.image[1] + 1 for row in rows]
    yield prompts
    for step in range(DECODED):
        yield [length + step + 1 for length in prompts]
