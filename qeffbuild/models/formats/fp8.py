"""Floats of 8 bits with one scale, or with one for each block of a matrix."""

from __future__ import annotations

from collections.abc import Iterator

from qeffbuild.models.formats.door import REAL, Door, Encoded

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
POWERS = "float8_e8m0fnu"  # scales that are powers of two


def fp8(door: Door) -> Iterator[tuple[str, Encoded]]:
    for base, tensor in door.ending(".weight"):
        if tensor.dtype in FLOAT8:
            name = next((name for name in ("weight_scale_inv", "weight_scale") if f"{base}.{name}" in door.tensors), "")
            parts = door.parts(base, {"numbers": "weight", "scales": name or "weight_scale_inv"})
            block = door.said.get("weight_block_size") if name != "weight_scale" else None
            yield f"{base}.weight", floats(door, parts, block)


def floats(door: Door, parts: dict[str, str], block: object) -> Encoded:
    """One weight, if its scales are as many as there are blocks; without a `block`, one for all or one a row."""
    shape, scales = door.tensors[parts["numbers"]].shape, door.tensors[parts["scales"]].shape
    door.expect_dtype(parts["scales"], (*REAL, POWERS))
    if block is None:
        count = scales[0] if scales else 1
        if len(shape) != 2 or count not in (1, shape[0]) or scales not in ((), (count,), (count, 1)):
            door.contradicts(f"does not fit: {parts['scales']} is {list(scales)} for a weight of {list(shape)}")
        return Encoded(format="fp8", shape=shape, parts=parts, options={})
    if not isinstance(block, list) or len(block) != 2 or any(type(size) is not int or size < 1 for size in block):
        door.contradicts(f"says blocks of {block!r:.40}, which are no rows and columns")
    if len(shape) != 2:
        door.contradicts(f"does not fit: {parts['numbers']} is {list(shape)}, which is no matrix")
    sizes = tuple(-(-size // each) for size, each in zip(shape, block, strict=True))
    door.expect(parts["scales"], sizes, f"says blocks of {block}")
    return Encoded(format="fp8", shape=shape, parts=parts, options={"block": block})
