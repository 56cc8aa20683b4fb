"""A GGUF file -> what its header says of how long a text can be; nothing else is read, and no library is needed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by the number of a type
_INTEGERS = {4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_STRING, _ARRAY = 8, 9
_LONGEST_KEY = 1 << 16
_VERSIONS = (2, 3)


def context_length(path: Path) -> int | None:
    """None where the header does not say it, or is no header: whoever reads the file says what is wrong with it."""
    try:
        with path.open("rb") as file:
            return next((length for length in _lengths(file) if length >= 1), None)
    except (OSError, OverflowError, struct.error, KeyError):
        return None


def _lengths(file: BinaryIO) -> Iterator[int]:
    magic, version, _, count = _unpacked(file, "<4sIQQ")
    for _ in range(count if magic == b"GGUF" and version in _VERSIONS else 0):
        (size,) = _unpacked(file, "<Q")
        key = file.read(min(size, _LONGEST_KEY))
        (kind,) = _unpacked(file, "<I")
        if key.endswith(b".context_length") and kind in _INTEGERS:
            yield _unpacked(file, _INTEGERS[kind])[0]
        else:
            _skip(file, kind)


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        file.seek(_unpacked(file, "<Q")[0], 1)
    elif kind == _ARRAY:
        of, count = _unpacked(file, "<IQ")
        if of != _STRING:
            file.seek(_SIZES[of] * count, 1)
        else:
            for _ in range(count):
                _skip(file, _STRING)
    else:
        file.seek(_SIZES[kind], 1)


def _unpacked(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))
