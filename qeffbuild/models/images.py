"""Image files -> images of the size that a model is built for, and what its processor makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
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
        raise RunError(
            "run.image", f"{path}: not an image that Pillow reads", hint="PNG or JPEG, for instance"
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise RunError("run.image", f"{path}: cannot be read: {problem!s:.120}", hint="is the file whole?") from problem


def size_of(config: Any, asked: Sequence[int]) -> Size:
    """Height and width that images are built for: as asked, else as the vision part of the configuration says."""
    said = tuple(asked) or getattr(getattr(config, "vision_config", None), "image_size", None) or _USUAL
    numbers = tuple(said) if isinstance(said, Sequence) else (int(said),)
    return (numbers[0], numbers[-1])


def processed(processor: Any, images: Sequence[Any]) -> dict[str, Any]:
    """What the processor makes of images alone: pixels, grids, masks, as torch tensors. Pixels are float32."""
    text = " ".join([processor.image_token] * len(images))
    made = processor(text=[text], images=[list(images)], return_tensors="pt")
    told = {name: value for name, value in made.items() if name not in _TEXT}
    return told | {name: value.float() for name, value in told.items() if _is_narrow(value)}


def _is_narrow(value: Any) -> bool:
    return hasattr(value, "is_floating_point") and value.is_floating_point() and value.element_size() < 4


def blank(size: Size, count: int = 1) -> list[Any]:
    """Images of a size that are nothing in particular, and nowhere black: some models leave out what is."""
    from PIL import Image

    height, width = size
    gradient = Image.linear_gradient("L").resize((width, height))
    return [gradient.point(lambda level: 64 + level // 2).convert("RGB")] * count


def fitting(processor: Any, image: Any, size: Size, wanted: Mapping[str, Any]) -> Any:
    """The image as it is where that gives what was built for, else brought to the size that was."""
    if described(processed(processor, [image])) == dict(wanted):
        return image
    height, width = size
    return image.resize((width, height))


def described(made: Mapping[str, Any]) -> dict[str, Any]:
    """The shapes of pixels, and the values of what counts, measures or masks them (of many, a digest)."""
    return {name: _described(value) for name, value in made.items() if hasattr(value, "dim")}


def _described(value: Any) -> Any:
    if value.is_floating_point():
        return list(value.shape)
    if value.dim() <= 2:
        return value.tolist()
    return [*value.shape, sha256(value.numpy().tobytes()).hexdigest()]
