"""The processor of a model folder: images and text -> the tensors that a model of both takes.

transformers' processors load a part for videos, which needs torchvision, and prefer torchvision for images too. Images
alone need neither: they go through the same processors' Pillow form, so that one image gives the same numbers wherever
it is read.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qeffbuild.errors import AbsentError, ModelError
from qeffbuild.models.classes import module_of
from qeffbuild.models.files import CONFIG, GENERATION_CONFIG, PROCESSORS

PACKED = "processor.zip"


def require_pillow() -> None:
    from importlib.util import find_spec

    if find_spec("PIL") is None:
        raise AbsentError("tool.absent", "images cannot be read without Pillow", hint="pip install 'qeffbuild[vision]'")


def load_processor(folder: Path, model_type: str) -> Any:
    """transformers' processor of a local folder, for images and text; never looks beyond the folder."""
    require_pillow()
    if not any((folder / name).is_file() for name in PROCESSORS):
        hint = f"copy the model's {PROCESSORS[0]} or {PROCESSORS[1]} into the folder"
        raise ModelError("model.processor", "no image processor in the model folder", where=str(folder), hint=hint)
    try:
        return class_of(model_type).from_pretrained(str(folder), local_files_only=True)
    except Exception as problem:
        first = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
        found = f"the image processor cannot be read: {first:.160}"
        raise ModelError("model.processor", found, where=str(folder)) from problem


def reads_whole(processor: Any) -> bool:
    """Whether a prompt's tokens all see one another: such a processor is given an answer apart from it, as a suffix."""
    return "suffix" in inspect.signature(type(processor).__call__).parameters


def pack(folder: Path, names: Sequence[str], out: Path) -> None:
    """The processor's and the tokenizer's files of `names` in one archive, the same bytes for the same files."""
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted({*names, CONFIG} - {GENERATION_CONFIG}):
            if not name.endswith((".safetensors", ".bin", ".index.json", ".py")):
                archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())


def load_packed(archive: Path, model_type: str, room: Path) -> Any:
    """The processor of an archive that `pack` wrote; `room` is a folder for its files, which are gone afterwards."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(room)
    try:
        return load_processor(room, model_type)
    finally:
        shutil.rmtree(room)


def class_of(model_type: str) -> Any:
    """The processor class of a model_type, without its part for videos and with Pillow's part for images."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = PROCESSOR_MAPPING_NAMES.get(model_type)
    if name is None:
        raise ModelError("model.unsupported", f"model_type {model_type!r:.60} has no processor in transformers")
    module = _module_of(str(name))
    if getattr(module, "num2words", "") is None:
        module.num2words = str  # it spells the numbers of a video's frames
    whole = getattr(module, str(name))

    def parts(cls: Any, folder: str, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
        from transformers import AutoTokenizer

        made = {
            "image_processor": lambda: _cutter(Path(folder)),
            "tokenizer": lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True),
        }
        return [made[part]() if part in made else None for part in whole.get_attributes()]

    def check(self: Any, part: str, value: Any) -> None:
        """Parts that are made above are what they should be; the others are None."""

    methods = {"_get_arguments_from_pretrained": classmethod(parts), "check_argument_for_proper_class": check}
    return type(whole.__name__, (whole,), methods)


def _cutter(folder: Path) -> Any:
    """The part for images, by the class that the folder names."""
    from transformers import AutoImageProcessor
    from transformers.image_processing_base import ImageProcessingMixin

    from qeffbuild.models.tensor_images import class_named

    said, _ = ImageProcessingMixin.get_image_processor_dict(str(folder), local_files_only=True)
    if name := said.get("image_processor_type"):
        return class_named(name).from_pretrained(str(folder), local_files_only=True)
    return AutoImageProcessor.from_pretrained(str(folder), backend="pil", local_files_only=True)


def _module_of(name: str) -> Any:
    """The module in which a processor class is written."""
    module = module_of(name, "processing_*.py")
    if module is None:
        raise ModelError("model.unsupported", f"transformers has no {name}")
    _stand_in(module.split(".")[2])
    return importlib.import_module(module)


def _stand_in(family: str) -> None:
    """Some processors import a function from their image processor's torchvision form; the other has it too."""
    from importlib.util import find_spec

    from qeffbuild.models.tensor_images import standing_in

    room = f"transformers.models.{family}"
    wanted, other = f"{room}.image_processing_{family}", f"{room}.image_processing_pil_{family}"
    if find_spec("torchvision") is not None or wanted in sys.modules:
        return
    if find_spec(other) is not None:
        sys.modules[wanted] = importlib.import_module(other)
    elif find_spec(wanted) is not None:
        standing_in(wanted)
