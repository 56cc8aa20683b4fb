"""Image files -> images of the size that a model is built for, and what its processor makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qeffbuild.errors import RunError

_TEXT = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
_USUAL = 448  # of models that take images of any size: a multiple of what their patches and merges mostly need

Size = tuple[int, int]  # height, width


def read_image(path: Path) -> Any:
    """An image in RGB, as Pillow has it."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise RunError("run.image", f"no such image: {path}", hint="images=[FILE] names a local file") from None
    except UnidentifiedImageError:
        raise RunError("run.image", f"{path}: not an image that Pillow reads", hint="PNG or JPEG, for instance") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise RunError("run.image", f"{path}: cannot be read: {problem!s:.120}", hint="is the file whole?") from problem


def size_of(config: Any, asked: Sequence[int]) -> Size:
    """Height and width that images are built for: as asked, else as the vision part of the configuration says."""
    said = tuple(asked) or getattr(getattr(config, "vision_config", None), "image_size", None) or _USUAL
    numbers = tuple(said) if isinstance(said, Sequence) else (int(said),)
    return (numbers[0], numbers[-1])


def processed(processor: Any, images: Sequence[Any]) -> dict[str, Any]:
    """What the processor makes of images alone: pixels, grids, masks, as torch tensors."""
    text = " ".join([processor.image_token] * len(images))
    made = processor(text=[text], images=[list(images)], return_tensors="pt")
    return {name: value for name, value in made.items() if name not in _TEXT}


def blank(size: Size, count: int = 1) -> list[Any]:
    """Images of a size that are nothing in particular, and nowhere black: some models leave out what is."""
    from PIL import Image

    height, width = size
    return [Image.linear_gradient("L").resize((width, height)).point(lambda level: 64 + level // 2).convert("RGB")] * count


def fitted(processor: Any, image: Any, size: Size, wanted: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The image processed as it is where that gives tensors of the `wanted` shapes, else brought to the size first."""
    made = processed(processor, [image])
    if {name: list(value.shape) for name, value in made.items()} == dict(wanted):
        return made
    height, width = size
    return processed(processor, [image.resize((width, height))])
