"""transformers' processors of images that know no form but torchvision's -> the same classes, without torchvision.

They ask little of it: sizes, edges and means of tensors. torch itself computes these, so that one image gives the same
numbers wherever it is read, and no second package has to fit the installed torch.
"""

from __future__ import annotations

import enum
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from qeffbuild.models.classes import module_of

_ROOM, _FILES = "torchvision.transforms.v2", "image_processing_*.py"


class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def resize(
    image: torch.Tensor,
    size: Sequence[int],
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    antialias: bool = True,
) -> torch.Tensor:
    if tuple(size) == tuple(image.shape[-2:]):
        return image
    mode = interpolation.value
    is_smooth = mode in ("bilinear", "bicubic")
    options: dict[str, Any] = {"align_corners": False, "antialias": antialias} if is_smooth else {}
    flat = image.reshape(-1, *image.shape[-3:])
    made = torch.nn.functional.interpolate(flat, size=[int(length) for length in size], mode=mode, **options)
    return made.reshape(*image.shape[:-2], *made.shape[-2:])


def pad(image: torch.Tensor, padding: Sequence[int], fill: Any = 0, padding_mode: str = "constant") -> torch.Tensor:
    """`padding` is left, top, right, bottom; `fill` is one value, or one of each channel."""
    left, top, right, bottom = (int(edge) for edge in padding)
    assert padding_mode == "constant", "no processor asks for another"
    values = torch.as_tensor(0 if fill is None else fill).to(image.dtype).reshape(-1, 1, 1)
    *front, height, width = image.shape
    made = values.expand(*front, height + top + bottom, width + left + right).clone()
    made[..., top : top + height, left : left + width] = image
    return made


def crop(image: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    return image[..., top : top + height, left : left + width]


def normalize(image: torch.Tensor, mean: Any, std: Any, inplace: bool = False) -> torch.Tensor:
    average, deviation = (torch.as_tensor(value, dtype=image.dtype) for value in (mean, std))
    if average.dim() == 1:
        average, deviation = average[:, None, None], deviation[:, None, None]
    return (image - average) / deviation


def grayscale_to_rgb(image: torch.Tensor) -> torch.Tensor:
    return image.expand(*image.shape[:-3], 3, -1, -1) if image.shape[-3] == 1 else image


def class_named(name: str) -> Any:
    """The class of an image processor: with its Pillow form where it has one."""
    import transformers
    from transformers.utils import is_torchvision_available

    plain = name.removesuffix("Fast").removesuffix("Pil")
    if module := module_of(f"{plain}Pil", _FILES):
        return getattr(importlib.import_module(module), f"{plain}Pil")
    module = module_of(plain, _FILES)
    if module is None:
        return getattr(transformers, name)
    return getattr(importlib.import_module(module) if is_torchvision_available() else standing_in(module), plain)


def standing_in(module: str) -> ModuleType:
    """A module that imports torchvision, with this one in its place."""
    from transformers import image_processing_backends, image_utils

    this = sys.modules[__name__]
    rooms = [ModuleType(".".join(_ROOM.split(".")[:depth])) for depth in (1, 2, 3)]
    rooms[-1].functional = this  # type: ignore[attr-defined]
    places = {room.__name__: room for room in rooms} | {f"{_ROOM}.functional": this}
    by_name = {mode.name: mode for mode in InterpolationMode} | {"NEAREST": InterpolationMode.NEAREST_EXACT}
    modes: dict[Any, Any] = {way: by_name.get(way.name) for way in image_utils.PILImageResampling}
    image_processing_backends.tvF = this
    image_processing_backends.pil_torch_interpolation_mapping = modes
    sys.modules.update(places)
    try:
        return importlib.import_module(module)
    finally:
        for name in places:
            del sys.modules[name]
