"""What models/gguf.py wrote: the blocks of each weight as they were in its GGUF file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qeffbuild.models.formats.door import Door, Encoded

# ggml's blocks that are integers with a scale and nothing else: bits that hold them, weights that share a scale.
GGML: Mapping[str, tuple[int, int]] = {
    "IQ4_NL": (8, 32), "IQ4_XS": (8, 32), "MXFP4": (8, 32), "Q3_K": (4, 16), "Q4_0": (4, 32), "Q5_0": (8, 32),
    "Q6_K": (8, 16), "Q8_0": (8, 32),
}  # fmt: skip


def gguf(door: Door) -> Iterator[tuple[str, Encoded]]:
    weights = door.said.get("tensors")
    if not isinstance(weights, Mapping):
        door.unsupported("quant_method gguf in safetensors", "name the GGUF file itself: model.path=FILE.gguf")
    for name, said in weights.items():
        parts = door.parts(name, {"numbers": "ggml"})
        rows, _ = door.expect_matrix(parts["numbers"], ("uint8",))
        kind, columns = _read(door, name, said, rows)
        form = GGML.get(kind)
        options: dict[str, Any] = {"type": kind, "turned": bool(said["turned"])}
        if form is not None:
            options |= {"bits": form[0], "group_size": form[1]}
        shape = (columns, rows) if said["turned"] else (rows, columns)
        format = "ggml" if form is None else f"ggml_{kind.lower()}"
        yield name, Encoded(format=format, shape=shape, parts=parts, options=options)


def _read(door: Door, name: str, said: Any, rows: int) -> tuple[str, int]:
    """The kind of block, and how many columns a row of them makes."""
    is_read = isinstance(said, Mapping) and isinstance(said.get("type"), str) and "turned" in said
    shape = said.get("shape") if is_read else None
    if not isinstance(shape, list) or len(shape) != 2 or shape[0] != rows or type(shape[1]) is not int:
        door.contradicts(f"does not fit: it does not say how {name} is stored")
    return said["type"], shape[1]
