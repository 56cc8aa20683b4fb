"""MXFP4: floats of 4 bits, 32 of which share a power of two."""

from __future__ import annotations

from collections.abc import Iterator

from qeffbuild.models.formats.door import Door, Encoded


def mxfp4(door: Door) -> Iterator[tuple[str, Encoded]]:
    for base, tensor in door.ending("_blocks"):
        scales = f"{base}_scales"
        if scales not in door.tensors or tensor.dtype != "uint8" or len(tensor.shape) < 3:
            door.contradicts(f"does not fit: {base}_blocks has no scales of its own")
        *outer, rows, groups, half = tensor.shape
        door.expect(scales, (*outer, rows, groups), "says mxfp4", ("uint8",))
        # transformers keeps experts as [experts, in, out]; the blocks run along what comes in.
        shape = (*outer, groups * half * 2, rows) if outer else (rows, groups * half * 2)
        parts = {"numbers": f"{base}_blocks", "scales": scales}
        yield base, Encoded(format="mxfp4", shape=shape, parts=parts, options={"bits": 8, "group_size": 2 * half})
