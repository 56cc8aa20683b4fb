"""compressed-tensors: packed integers, integers and floats of 8 bits, floats of 4; scales as the config groups say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qeffbuild.models.formats.door import REAL, WORDS, Door, Encoded
from qeffbuild.models.formats.fp8 import FLOAT8, floats

_REFUSED = ("marlin-24", "sparse-24-bitmask", "sparse-bitmask")


def compressed_tensors(door: Door) -> Iterator[tuple[str, Encoded]]:
    sparse = door.said.get("sparsity_config")
    for form in (door.said.get("format"), sparse.get("format") if isinstance(sparse, Mapping) else None):
        if form in _REFUSED:
            door.unsupported(f"compressed-tensors as {form}", "a checkpoint that is not sparse")
    for base, tensor in door.ending(".weight_packed"):
        yield f"{base}.weight", _packed(door, base) if tensor.dtype in WORDS else _four_bit_floats(door, base)
    for base, tensor in door.ending(".weight"):
        if tensor.dtype == "int8" and len(tensor.shape) == 2:
            yield f"{base}.weight", _integers(door, base)
        if tensor.dtype in FLOAT8:
            yield f"{base}.weight", _floats(door, base)


def _packed(door: Door, base: str) -> Encoded:
    roles = {"numbers": "weight_packed", "scales": "weight_scale"}
    parts = door.parts(base, roles, {"zeros": "weight_zero_point", "group": "weight_g_idx"})
    name = door.parts(base, {"shape": "weight_shape"})["shape"]
    door.expect(name, (2,), "does not fit", ("int64", "int32"))
    rows, columns = door.numbers(name)
    packed = door.expect_matrix(parts["numbers"], WORDS)
    bits = packed[1] * 32 // max(columns, 1)
    if packed[0] != rows or bits not in (4, 8):
        door.contradicts(f"does not fit: {parts['numbers']} is {list(packed)} for a weight {rows} x {columns}")
    groups = _groups(door, parts["scales"], rows, columns)
    if "zeros" in parts and door.tensors[parts["zeros"]].dtype in WORDS:
        door.expect(parts["zeros"], (-(-rows * bits // 32), groups), f"says {bits} bits")
    elif "zeros" in parts:
        door.expect(parts["zeros"], (rows, groups), f"says {bits} bits", ("int8",))
    _expect_zeros(door, base, parts)
    size = columns // groups
    parts = door.without_plain_groups(parts, columns, size)
    options = {"bits": bits, "group_size": size, "permuted": "group" in parts}
    return Encoded(format="packed", shape=(rows, columns), parts=parts, options=options)


def _four_bit_floats(door: Door, base: str) -> Encoded:
    """NVFP4: 16 share a float of 8 bits, and all of a weight another number; MXFP4: 32 share a power of two."""
    roles = {"numbers": "weight_packed", "scales": "weight_scale"}
    parts = door.parts(base, roles, {"whole": "weight_global_scale"})
    rows, half = door.expect_matrix(parts["numbers"], ("uint8",))
    size = 16 if "whole" in parts else 32
    if half * 2 % size:
        door.contradicts(f"does not fit: {parts['numbers']} has {half * 2} columns, which are no blocks of {size}")
    stored = ("float8_e4m3fn",) if "whole" in parts else ("uint8",)
    door.expect(parts["scales"], (rows, half * 2 // size), f"says blocks of {size}", stored)
    if "whole" in parts:
        door.expect(parts["whole"], (1,), "has one number for a weight", REAL)
    options = {"bits": 8, "group_size": size}
    return Encoded(format="e2m1", shape=(rows, half * 2), parts=parts, options=options)


def _integers(door: Door, base: str) -> Encoded:
    parts = door.parts(base, {"numbers": "weight", "scales": "weight_scale"}, {"zeros": "weight_zero_point"})
    rows, columns = door.tensors[parts["numbers"]].shape
    groups = _groups(door, parts["scales"], rows, columns)
    if "zeros" in parts:
        door.expect(parts["zeros"], door.tensors[parts["scales"]].shape, "has a zero point for each scale", ("int8",))
    _expect_zeros(door, base, parts)
    options = {"bits": 8, "group_size": columns // groups}
    return Encoded(format="int8", shape=(rows, columns), parts=parts, options=options)


def _floats(door: Door, base: str) -> Encoded:
    parts = door.parts(base, {"numbers": "weight", "scales": "weight_scale"})
    scales, shape = door.tensors[parts["scales"]], door.tensors[parts["numbers"]].shape
    if scales.dtype == "uint8":  # MXFP8: powers of two
        rows, columns = door.expect_matrix(parts["numbers"], FLOAT8)
        door.expect(parts["scales"], (rows, -(-columns // 32)), "says blocks of 32")
        return Encoded(format="fp8", shape=shape, parts=parts, options={"block": [1, 32], "powers": True})
    if _weights(door).get("block_structure") is not None:
        return floats(door, parts, _weights(door)["block_structure"])
    if len(scales.shape) == 2 and scales.shape[1] > 1 and len(shape) == 2:
        size = shape[1] // _groups(door, parts["scales"], *shape)
        return floats(door, parts, [1, size])
    return floats(door, parts, None)


def _weights(door: Door) -> Mapping[str, Any]:
    """What the config groups say of weights, where all say the same."""
    groups = door.said.get("config_groups")
    found = [group.get("weights") for group in groups.values()] if isinstance(groups, Mapping) else []
    told = [one for one in found if isinstance(one, Mapping)]
    return {key: value for one in told[:1] for key, value in one.items() if all(o.get(key) == value for o in told)}


def _expect_zeros(door: Door, base: str, parts: Mapping[str, str]) -> None:
    if _weights(door).get("symmetric") is False:
        door.parts(base, {"zeros": "weight_zero_point"})


def _groups(door: Door, scales: str, rows: int, columns: int) -> int:
    """How many scales a row has; its columns are shared evenly among them."""
    door.expect_dtype(scales, REAL)
    shape = door.tensors[scales].shape
    groups = shape[1] if len(shape) == 2 else 1
    if len(shape) > 2 or (shape and shape[0] not in (1, rows)) or not groups or columns % groups:
        door.contradicts(f"does not fit: {scales} is {list(shape)} for a weight {rows} x {columns}")
    return groups
