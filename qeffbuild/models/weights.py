"""The headers of safetensors files -> where every tensor lies, without reading a weight.

A file is 8 bytes with the header's length, the header in JSON, then the tensors without gaps
(the safetensors format, version 0.3 and later). Everything here is checked before it is believed.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from qeffbuild.errors import ModelError
from qeffbuild.models.files import INDEX, WEIGHTS, pickle_files, read_weight_map

# The format's word -> numpy's (ml_dtypes') word and bits of one value.
DTYPES: Mapping[str, tuple[str, int]] = {
    "BOOL": ("bool", 8), "U8": ("uint8", 8), "I8": ("int8", 8), "U16": ("uint16", 16), "I16": ("int16", 16),
    "U32": ("uint32", 32), "I32": ("int32", 32), "U64": ("uint64", 64), "I64": ("int64", 64),
    "F16": ("float16", 16), "BF16": ("bfloat16", 16), "F32": ("float32", 32), "F64": ("float64", 64),
    "F8_E4M3": ("float8_e4m3fn", 8), "F8_E5M2": ("float8_e5m2", 8), "F8_E8M0": ("float8_e8m0fnu", 8),
    "F4": ("float4_e2m1fn", 4),
}  # fmt: skip

_LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Where a tensor's bytes are: `offset` counts from the start of the file."""

    file: str
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape)}


def read_tensors(folder: Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; none when its weights are pickles and those are allowed."""
    if (folder / WEIGHTS).is_file():
        return read_header(folder, WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    pickles = pickle_files(folder)
    if pickles and allow_pickle:
        return {}
    if pickles:
        raise ModelError(
            "model.pickle",
            f"the weights are pickles ({pickles[0]}), which can run code when they are read",
            where=str(folder),
            hint="convert them to safetensors, or accept the risk: model.allow_pickle=true",
        )
    raise ModelError("model.weights", f"no {WEIGHTS} and no {INDEX}", where=str(folder))


def _read_shards(folder: Path) -> dict[str, Tensor]:
    weight_map = read_weight_map(folder)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).is_file():
            raise ModelError("model.weights", f"{INDEX}: shard {shard} is missing", where=str(folder))
        found = read_header(folder, shard)
        if twice := sorted(found.keys() & tensors.keys()):
            raise ModelError("model.weights", f"{shard}: {twice[0]} is in another shard too", where=str(folder))
        tensors |= found
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].file != shard:
            raise ModelError("model.weights", f"{INDEX}: {name} is not in {shard}", where=str(folder))
    return tensors


def read_header(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one safetensors file."""
    path = folder / name
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            _refuse(path, f"{size} bytes are too few for a safetensors file")
        (length,) = struct.unpack("<Q", prefix)
        if length > _LONGEST_HEADER:
            _refuse(path, f"claims a header of {length} bytes; the format allows {_LONGEST_HEADER}")
        if 8 + length > size:
            _refuse(path, f"is cut short: a header of {length} bytes in a file of {size}")
        header = _parse(path, file.read(length))
    tensors = [_tensor(path, name, key, said, 8 + length) for key, said in header if key != "__metadata__"]
    _refuse_gaps(path, [tensor for _, tensor in tensors], 8 + length, size)
    return dict(tensors)


def _parse(path: Path, raw: bytes) -> list[tuple[str, Any]]:
    try:
        header = json.loads(raw, object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError) as problem:
        raise ModelError("model.weights", f"{path.name}: its header is no JSON", where=str(path)) from problem
    if not isinstance(header, list) or not all(isinstance(item, tuple) for item in header):
        _refuse(path, "its header is no JSON object")
    names = [key for key, _ in header]
    if len(names) != len(set(names)):
        _refuse(path, f"names a tensor twice: {next(name for name in names if names.count(name) > 1)}")
    return header


def _tensor(path: Path, file: str, name: str, said: Any, start: int) -> tuple[str, Tensor]:
    try:
        fields = dict(said)
        dtype, shape, (first, last) = fields["dtype"], fields["shape"], fields["data_offsets"]
    except (TypeError, ValueError, KeyError):
        _refuse(path, f"{name} does not say its dtype, shape and data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        _refuse(path, f"{name} has an unknown dtype: {dtype!r:.40}")
    if not isinstance(shape, list) or not all(_is_size(number) for number in (*shape, first, last)):
        _refuse(path, f"{name} has a shape or offsets that are no sizes")
    word, bits = DTYPES[dtype]
    if (last - first) * 8 != math.prod(shape) * bits:
        _refuse(path, f"{name} is {dtype} {shape} but has {last - first} bytes")
    return name, Tensor(file=file, offset=start + first, nbytes=last - first, dtype=word, shape=tuple(shape))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _refuse_gaps(path: Path, tensors: list[Tensor], start: int, size: int) -> None:
    """Each tensor begins where the one before ends, and the last ends the file."""
    at = start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset < at:
            _refuse(path, f"two tensors overlap at byte {tensor.offset}")
        if tensor.offset > at:
            _refuse(path, f"has a gap of {tensor.offset - at} bytes at byte {at}")
        at += tensor.nbytes
    if at > size:
        _refuse(path, f"is cut short: {size} bytes of {at}")
    if at < size:
        _refuse(path, f"has {size - at} bytes that no tensor names")


def _refuse(path: Path, found: str) -> NoReturn:
    raise ModelError("model.weights", f"{path.name}: {found}", where=str(path), hint="fetch the file again")
