"""Small random models of images and text with real processors: one folder for each family, as transformers saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qeffbuild.models import DEMO
from qeffbuild.models.tiny_images import FAMILIES, write_tiny_seeing

__all__ = ["FAMILIES", "picture", "write"]


def write(folder: Path, family: str) -> Path:
    """The model's folder, weights and processor included."""
    write_tiny_seeing(folder, family, seed=0, tokenizer=DEMO)
    return folder


def picture(width: int = 40, height: int = 28, seed: int = 0) -> Any:
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8))
