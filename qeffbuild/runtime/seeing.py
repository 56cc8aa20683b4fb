"""Prompts and images -> token ids, and what a decoder of images and text takes beside them.

A prompt says where its images go by the processor's placeholder. One without a placeholder gets its images in front, in
the form of the model's chat template where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from qeffbuild.errors import RunError
from qeffbuild.models.image_positions import positions_of, rule_of
from qeffbuild.models.images import fitting, processed, read_image
from qeffbuild.models.processor import load_processor
from qeffbuild.package import Package
from qeffbuild.runtime.request import Request
from qeffbuild.spec.types import DecodingSpec

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One prompt as the model takes it: pixels of each image, and positions [3, tokens] where it turns by a grid.

    `whole` are the tokens that have to be fed together: those of an image, or of all the prompt.
    """

    token_ids: tuple[int, ...]
    pixels: tuple[np.ndarray, ...]
    positions: np.ndarray | None
    whole: tuple[Span, ...]


class Eyes:
    """A package's processor, and what is known of the images that it was built for."""

    def __init__(self, package: Package) -> None:
        if package.tokenizer is None:
            hint = "build from a model folder that has a processor"
            raise RunError("run.tokenizer", "the package has no processor, and images need one", hint=hint)
        self.facts: Mapping[str, Any] = package.manifest["image"]
        self.processor = load_processor(package.tokenizer, package.model["model_type"])
        self.rule = _rule(package.tokenizer) if self.facts["has_grid"] else None

    def requests(self, prompts: Sequence[Any], images: Sequence[str], decoding: DecodingSpec) -> list[Request]:
        if not all(isinstance(prompt, str) and prompt for prompt in prompts):
            raise RunError(
                "run.prompt", "prompts: a model that sees is given texts, none of them empty", hint="say some"
            )
        return [
            Request(id=place, token_ids=seen.token_ids, decoding=decoding, seen=seen, whole=seen.whole)
            for place, seen in enumerate(self.read(prompts, images))
        ]

    def read(self, prompts: Sequence[str], images: Sequence[str]) -> list[Seen]:
        """All prompts are read before anything runs."""
        opened = {name: read_image(Path(name)) for name in dict.fromkeys(images)}
        shares = list(self._shares(prompts, images))
        return [
            self._seen(place, prompt, [opened[name] for name in share])
            for place, (prompt, share) in enumerate(zip(prompts, shares, strict=True))
        ]

    def _shares(self, prompts: Sequence[str], images: Sequence[str]) -> Iterator[Sequence[str]]:
        """Which images belong to which prompt: by their placeholders, else all to the one, else one to each."""
        counts = [prompt.count(self.processor.image_token) for prompt in prompts]
        if any(counts):
            if sum(counts) != len(images):
                found = f"images: {len(images)}, but the prompts have {sum(counts)} places for one"
                hint = f"as many as there are {self.processor.image_token} in the prompts, or none of these at all"
                raise RunError("run.image", found, hint=hint)
            left = iter(images)
            yield from ([next(left) for _ in range(count)] for count in counts)
        elif len(prompts) == 1 or not images:
            yield from (images for _ in prompts)
        elif len(images) in (1, len(prompts)):
            yield from ([images[place % len(images)]] for place in range(len(prompts)))
        else:
            found = f"images: {len(images)} for {len(prompts)} prompts, and no prompt says which are its own"
            raise RunError("run.image", found, hint=f"put {self.processor.image_token} where an image belongs")

    def _seen(self, place: int, prompt: str, images: Sequence[Any]) -> Seen:
        most = self.facts["max_num_images"]
        if len(images) > most:
            found = f"prompt {place + 1}: {len(images)} images, but the package is built for {most}"
            raise RunError("run.image", found, hint=f"build with specialization.max_num_images={len(images)}")
        size = tuple(self.facts["img_size"])
        fit = [fitting(self.processor, image, size, self.facts["processed"]) for image in images]
        text = self._with_places(prompt, len(fit))
        made = self.processor(text=[text], images=[fit] if fit else None, return_tensors="pt")
        token_ids = made["input_ids"][0]
        is_image = token_ids == self.facts["image_token_id"]
        spans = tuple(_runs(is_image.tolist())) if self.facts["whole_images"] else ()
        return Seen(
            token_ids=tuple(token_ids.tolist()),
            pixels=tuple(processed(self.processor, [image])["pixel_values"].numpy() for image in fit),
            positions=self._positions(token_ids, is_image, made),
            whole=((0, len(token_ids)),) if self.facts.get("whole_prompts") else spans,
        )

    def _with_places(self, prompt: str, count: int) -> str:
        token = self.processor.image_token
        if not count or token in prompt:
            return prompt
        if getattr(self.processor, "chat_template", None):
            content = [*({"type": "image"} for _ in range(count)), {"type": "text", "text": prompt}]
            said = [{"role": "user", "content": content}]
            return self.processor.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        return "\n".join([*[token] * count, prompt])

    def _positions(self, token_ids: Any, is_image: Any, made: Mapping[str, Any]) -> np.ndarray | None:
        if self.rule is None:
            return None
        geometry = {name: made[name] for name in self.facts["processed"] if name in made}
        return positions_of(self.rule, token_ids, is_image, geometry).numpy()


def _rule(folder: Path) -> Any:
    """The class that knows the positions, with the model's configuration beside the processor."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    said = json.loads((folder / "config.json").read_text("utf-8"))
    config = CONFIG_MAPPING[said["model_type"]].from_dict(said)
    whole: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    base = __import__(whole.__module__, fromlist=["_"])
    return rule_of(getattr(base, whole.__name__.replace("ForConditionalGeneration", "Model")), config)


def _runs(is_image: Sequence[bool]) -> Iterator[Span]:
    place = 0
    for value, group in groupby(is_image):
        count = sum(1 for _ in group)
        if value:
            yield place, place + count
        place += count
