"""bitsandbytes: 8 bits with a scale for each row, or codes of 4 bits into a table with a scale for each block."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from qeffbuild.models.formats.door import REAL, Door, Encoded


def bitsandbytes(door: Door) -> Iterator[tuple[str, Encoded]]:
    for base, _ in door.ending(".SCB"):
        parts = door.parts(base, {"numbers": "weight", "scales": "SCB"})
        rows, columns = door.expect_matrix(parts["numbers"], ("int8",))
        door.expect(parts["scales"], (rows,), "says 8 bits", REAL)
        options = {"bits": 8, "group_size": columns}
        yield f"{base}.weight", Encoded(format="bnb8", shape=(rows, columns), parts=parts, options=options)
    for kind in ("nf4", "fp4"):
        for base, _ in door.ending(f".weight.quant_state.bitsandbytes__{kind}"):
            yield f"{base}.weight", _four_bits(door, base, f"{base}.weight.quant_state.bitsandbytes__{kind}")


def _four_bits(door: Door, base: str, note: str) -> Encoded:
    said = _note(door, note)
    shape, size = tuple(said["shape"]), said["blocksize"]
    count = math.prod(shape)
    blocks = -(-count // size)
    parts = door.parts(base, {"numbers": "weight", "scales": "weight.absmax", "map": "weight.quant_map"})
    if door.tensors[parts["numbers"]].nbytes < -(-count // 2):
        door.contradicts(f"does not fit: {parts['numbers']} is too short for a weight of {list(shape)}")
    door.expect(parts["map"], (16,), "says 4 bits", REAL)
    options: dict[str, Any] = {"blocksize": size, "count": count}
    if "nested_blocksize" in said:
        parts |= door.parts(base, {"nested": "weight.nested_absmax", "nested_map": "weight.nested_quant_map"})
        door.expect(parts["nested"], (-(-blocks // said["nested_blocksize"]),), "says nested scales", REAL)
        door.expect(parts["nested_map"], (256,), "says nested scales", REAL)
        options |= {name: said[name] for name in ("nested_blocksize", "nested_offset")}
    stored = ("uint8",) if "nested" in parts else REAL
    door.expect(parts["scales"], (blocks,), f"says blocks of {size}", stored)
    return Encoded(format="bnb4", shape=shape, parts={**parts, "note": note}, options=options)


def _note(door: Door, name: str) -> dict[str, Any]:
    """What is said of one weight beside it, in JSON."""
    try:
        said = json.loads(door.read(name))
    except ValueError:
        said = None
    is_read = isinstance(said, dict) and _are_sizes(said.get("shape")) and _are_sizes([said.get("blocksize")])
    if is_read and "nested_blocksize" in said:
        is_read = _are_sizes([said["nested_blocksize"]]) and isinstance(said.get("nested_offset"), (int, float))
    if not is_read:
        door.contradicts(f"does not fit: {name} does not say how its weight is stored")
    return said


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(size) is int and size > 0 for size in value)
