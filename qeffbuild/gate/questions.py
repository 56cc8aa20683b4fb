"""A model's folder -> the inputs on which its graphs are held against PyTorch, the same ones each time.

A row is arrays by name, of one text: as PyTorch takes them, and for a model that sees also which tokens are an image's
(`is_image`) and their positions where it turns by time, height and width (`positions` [4, 1, tokens]).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qeffbuild.gate.prompts import LEVELS, prompts, texts
from qeffbuild.models import Facts
from qeffbuild.models.tasks import CTC, IMAGE_TEXT, SPEECH, TEXT

START, SOUND, HEARD = "decoder_input_ids", "input_features", "encoder_ctx_len"
IS_IMAGE, POSITIONS, PIXELS, KINDS = "is_image", "positions", "pixel_values", "token_type_ids"
_WORDS = 5  # of a text, on each side of an image

Row = Mapping[str, np.ndarray]  # inputs by name, [1, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How much is asked, and about images of which size and number."""

    level: str
    trust_remote_code: bool = False
    img_size: tuple[int, ...] = ()
    images: int = 1


def questions(folder: Path, facts: Facts, network: Any, asking: Asking) -> Iterator[Row]:
    if facts.task == CTC:
        yield from _sounds(network, LEVELS[asking.level][0])
    elif facts.task == IMAGE_TEXT:
        yield from _pictures(folder, facts, network, asking)
    else:
        rows = prompts(folder, facts, asking.level, trust_remote_code=asking.trust_remote_code)
        for number, token_ids in enumerate(rows):
            yield _row(facts.task, token_ids[None], network, number)


def _row(task: str, token_ids: np.ndarray, network: Any, number: int) -> Row:
    if task not in (SPEECH, TEXT):
        return {"input_ids": token_ids}
    begun = {START: np.concatenate([np.full((1, 1), _start(network)), token_ids[:, :-1]], axis=1)}
    if task == TEXT:
        return {"input_ids": token_ids, "attention_mask": np.ones_like(token_ids), **begun}
    from qeffbuild.export.sound import is_free, sound_of, wave

    sound = sound_of(network)
    row = {sound.name: wave(sound, number).numpy(), **begun}
    return row if is_free(sound) else {**row, HEARD: np.array([network.config.max_source_positions])}


def _sounds(network: Any, count: int) -> Iterator[Row]:
    from qeffbuild.export.encoder import listener
    from qeffbuild.export.sound import wave

    (sound,) = listener(network).inputs
    for number in range(min(count, 2)):
        yield {sound.name: wave(sound, number).numpy()}


def _start(network: Any) -> int:
    """The token that an answer begins with, by whichever of a model's files says it."""
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    said = (getattr(place, name, None) for name in names for place in (network.generation_config, network.config))
    return next((token for token in said if isinstance(token, int)), 0)


def _pictures(folder: Path, facts: Facts, network: Any, asking: Asking) -> Iterator[Row]:
    """Each text with its images in the middle: they are of one size, and no two of them alike."""
    from qeffbuild.export.vision import Picture
    from qeffbuild.models.image_positions import RULE, positions_of
    from qeffbuild.models.images import blank, size_of
    from qeffbuild.models.processor import load_processor, reads_whole

    processor = load_processor(folder, facts.model_type)
    image = blank(size_of(network.config, asking.img_size))[0]
    for number, text in enumerate(texts(asking.level)):
        words = text.split()[: 2 * _WORDS]
        places = " ".join([processor.image_token] * asking.images)
        said = f"{' '.join(words[:_WORDS])} {places} {' '.join(words[_WORDS:])}"
        turned = image.point(lambda level, most=255 - 20 * number: min(level, most)).rotate(180 * (number % 2))
        made = processor(text=[said], images=[[turned] * asking.images], return_tensors="pt")
        geometry = Picture.of(made, network).geometry
        is_image = made["input_ids"][0] == network.config.image_token_id
        row = {"input_ids": made["input_ids"], PIXELS: made[PIXELS].float(), **geometry, IS_IMAGE: is_image.int()[None]}
        if reads_whole(processor):  # and then its last two tokens are an answer
            length = made["input_ids"].shape[1]
            row[KINDS] = (np.arange(length)[None] >= length - 2).astype(np.int64)
        if hasattr(network.base_model, RULE):
            turns = positions_of(network.base_model, made["input_ids"][0], is_image, geometry)
            row[POSITIONS] = np.concatenate([np.arange(turns.shape[1])[None, None], turns.numpy()[:, None]])
        yield {name: np.ascontiguousarray(value) for name, value in row.items()}
