"""The values of a checkpoint, streamed: which tensors hold NaN or infinity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from qeffbuild.models.weights import Tensor

# Dtype -> bytes of a value, the bits without its sign, and the least pattern of those that is no finite number.
_NOT_FINITE: Mapping[str, tuple[int, int, int]] = {
    "float64": (8, (1 << 63) - 1, 0x7FF0_0000_0000_0000),
    "float32": (4, 0x7FFF_FFFF, 0x7F80_0000),
    "float16": (2, 0x7FFF, 0x7C00),
    "bfloat16": (2, 0x7FFF, 0x7F80),
    "float8_e5m2": (1, 0x7F, 0x7C),
    "float8_e4m3fn": (1, 0x7F, 0x7F),
}
_PIECE = 16 << 20  # bytes looked at at once


def nonfinite(folder: Path, tensors: Mapping[str, Tensor], progress: Callable[[float, str], None]) -> tuple[str, ...]:
    """Names of tensors with a NaN or an infinity, in the order in which they lie.

    A single number may be infinite: so models write a bound that is not set (Gemma 4 has four beside each layer).
    """
    total, done = sum(tensor.nbytes for tensor in tensors.values()) or 1, 0
    found = []
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].file, item[1].offset)):
        progress(done / total, f"looking for NaN in {tensor.file}")
        if not _is_finite(folder / tensor.file, tensor):
            found.append(name)
        done += tensor.nbytes
    return tuple(found)


def _is_finite(path: Path, tensor: Tensor) -> bool:
    """Compares bit patterns: no conversion of half precision, and no float arithmetic that a NaN could disturb."""
    import numpy as np

    if tensor.dtype not in _NOT_FINITE or tensor.nbytes == 0:
        return True
    size, without_sign, least = _NOT_FINITE[tensor.dtype]
    dtype = np.dtype(f"<u{size}")
    with path.open("rb") as file:
        file.seek(tensor.offset)
        for start in range(0, tensor.nbytes, _PIECE):
            bits = np.frombuffer(file.read(min(_PIECE, tensor.nbytes - start)), dtype)
            largest = (bits & dtype.type(without_sign)).max()
            if largest >= least:
                return not tensor.shape and largest == least != without_sign
    return True
