"""Small random models of images and text with real processors: one folder for each family, as transformers saves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qeffbuild.models import DEMO
from qeffbuild.models.images import read_image
from qeffbuild.models.processor import load_processor
from qeffbuild.models.tiny_images import FAMILIES, write_tiny_seeing

__all__ = ["FAMILIES", "STEPS", "asked_of", "greedy_by_transformers", "picture", "write"]

STEPS = 6  # tokens of an answer


def write(folder: Path, family: str) -> Path:
    """The model's folder, weights and processor included."""
    write_tiny_seeing(folder, family, seed=0, tokenizer=DEMO)
    return folder


def picture(width: int = 40, height: int = 28, seed: int = 0) -> Any:
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8))


def greedy_by_transformers(
    folder: Path, family: str, prompts: Sequence[str], images: Sequence[Path]
) -> list[list[int]]:
    """Each prompt alone, by the model's own generate."""
    import torch
    from transformers import AutoModelForImageTextToText

    processor = load_processor(folder, family)
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    answers = []
    for prompt, image in zip(prompts, images, strict=True):
        said = processor(text=[prompt], images=[[read_image(image)]], return_tensors="pt").to(model.dtype)
        with torch.no_grad():
            made = model.generate(**said, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False)
        answers.append(made[0, said["input_ids"].shape[1] :].tolist())
    return answers


def asked_of(folder: Path, family: str, room: Path) -> tuple[list[str], list[Path]]:
    token = load_processor(folder, family).image_token
    images = [room / f"{seed}.png" for seed in (1, 2)]
    for seed, path in enumerate(images):
        picture(seed=seed).save(path)
    return [f"w1 w2 {token} w3 w4 w5", f"w7 {token} w8 w9 w10 w11 w12 w13 w14"], images
