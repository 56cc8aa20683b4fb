"""Tensors that graphs hold by reference (file, offset, length): found, checked, and mapped one at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import ml_dtypes  # noqa: F401 - teaches numpy bfloat16 and its kin
import numpy as np
import onnx_ir as ir

from qeffbuild.errors import ModelError


class Reference(NamedTuple):
    """Where a tensor's bytes are. Equal references are the same tensor."""

    location: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that references may name files in.

    `is_checkpoint`: its files were named and hashed when the model was fetched. There, links into the hub cache's own
    `blobs/` are how files are kept, and a hard link gives nothing away.
    """

    path: Path
    is_checkpoint: bool = False

    def resolve(self, location: str) -> Path | None:
        """The file that `location` names, or None if there is none here. Whatever leaves the folder is refused."""
        named = PurePosixPath(location)
        if not location or named.is_absolute() or ".." in named.parts or "\\" in location or "\0" in location:
            raise _refused(location, "a path that leaves the model's folder", "name a file beside the model")
        file = self.path / named
        if not file.is_symlink() and not file.exists():
            return None
        real = file.resolve()
        if not any(real.is_relative_to(root) for root in self._roots()):
            raise _refused(location, "a link that leaves the model's folder", "put the file itself beside the model")
        if not real.is_file():
            raise _refused(location, "not a file", "name a file beside the model")
        if real.stat().st_nlink > 1 and not self.is_checkpoint:
            raise _refused(location, "a file with several hard links", "copy the file instead of linking it")
        return real

    def _roots(self) -> tuple[Path, ...]:
        home = self.path.resolve()
        if self.is_checkpoint and home.parent.name == "snapshots":
            return (home, home.parent.parent / "blobs")
        return (home,)


def checkpoint_folder(fetched: Path, leaf: Path | None) -> Folder:
    """Where a model's files are: in the fetch step's own `model/` if it wrote one, else in the folder that it read."""
    own = fetched / "model"
    if own.is_dir():
        return Folder(own, is_checkpoint=True)
    assert leaf is not None, "a model that is not ours has a leaf"
    return Folder(leaf, is_checkpoint=True)


class Weights:
    """The tensors that the graphs of one build point at. The first folder that has the file answers."""

    def __init__(self, *folders: Folder) -> None:
        self.folders = folders
        self._files: dict[str, Path] = {}

    def array(self, tensor: ir.TensorProtocol) -> np.ndarray:
        """A read-only view of a tensor's values; nothing is read until they are looked at.

        Each call maps anew and the mapping goes with the array: pages of tensors that are done with are given back.
        """
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor.numpy()
        file, reference = self.locate(tensor)
        shape = tuple(tensor.shape.numpy())
        if reference.length == 0:
            return np.zeros(shape, _stored(tensor.dtype))
        mapped = np.memmap(file, np.uint8, mode="r", offset=reference.offset, shape=(reference.length,))
        return np.asarray(mapped).view(_stored(tensor.dtype)).reshape(shape)

    def locate(self, tensor: ir.ExternalTensor) -> tuple[Path, Reference]:
        """The file behind a tensor, checked to hold all of it."""
        reference = reference_of(tensor)
        file = self._file(reference.location)
        size = file.stat().st_size
        if reference.offset < 0 or reference.length < 0 or reference.offset + reference.length > size:
            raise _refused(
                reference.location,
                f"{tensor.name} at {reference.offset}, {reference.length} bytes long, is not inside its {size} bytes",
                "the weights file is damaged or not the one that was exported; fetch it again",
            )
        return file, reference

    def _file(self, location: str) -> Path:
        if location not in self._files:
            found = next((file for folder in self.folders if (file := folder.resolve(location))), None)
            if found is None:
                raise _refused(location, "no such file", "put it beside the model")
            self._files[location] = found
        return self._files[location]


def reference_of(tensor: ir.ExternalTensor) -> Reference:
    """What a tensor says of its bytes, compared with its shape."""
    expected = math.prod(tensor.shape.numpy()) * _stored(tensor.dtype).itemsize
    length = expected if tensor.length is None else tensor.length
    if length != expected:
        raise _refused(
            str(tensor.location),
            f"{tensor.name} has {length} bytes, but its shape needs {expected}",
            "export the model again",
        )
    return Reference(str(tensor.location), tensor.offset or 0, length)


def _stored(dtype: ir.DataType) -> np.dtype:
    """How a dtype lies in a file. Numbers narrower than a byte share bytes and are never seen one by one here."""
    if dtype.bitwidth < 8:
        raise ModelError("onnx.unsupported", f"weights of dtype {dtype.name} are not read", hint="store them as int8")
    return np.dtype(dtype.numpy()).newbyteorder("<")


def _refused(location: str, problem: str, hint: str) -> ModelError:
    return ModelError("onnx.external", f"external data {location!r}: {problem}", hint=hint)
