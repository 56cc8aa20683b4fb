"""quantization_config and a table of tensors -> which weights are stored in other tensors, and how.

Read from names, shapes and a few bytes; no weight is touched. What each format means is in graph/decode.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from qeffbuild.errors import ModelError
from qeffbuild.models.files import CONFIG, line_of
from qeffbuild.models.weights import Tensor

KEY = "quantization_config"
# ggml's blocks that are integers with a scale and nothing else: bits that hold them, weights that share a scale.
GGML: Mapping[str, tuple[int, int]] = {"Q4_0": (4, 32), "Q5_0": (8, 32), "Q6_K": (8, 16), "Q8_0": (8, 32)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One weight: `parts` are the names of the tensors that hold it, by role; decoded it is float32 of `shape`."""

    format: str
    shape: tuple[int, ...]
    parts: Mapping[str, str]
    options: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Encoded:
        return cls(**{**said, "shape": tuple(said["shape"])})


Encodings = dict[str, Encoded]


def read_encodings(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Encodings:
    """Every encoded weight under the name that the plain one would have; none for a plain checkpoint."""
    said = config.get(KEY)
    if not said:
        return {}
    door = _Door(folder, said if isinstance(said, Mapping) else {}, tensors)
    method = door.said.get("quant_method", "unknown")
    if method not in _METHODS:
        door.unsupported(f"quant_method {method!s:.40}", f"methods that are read: {', '.join(sorted(_METHODS))}")
    found = dict(_METHODS[method](door))
    if not found:
        door.contradicts(f"says quant_method {method}, but no tensor is stored that way")
    return found


def plain_tensors(tensors: Mapping[str, Tensor], encodings: Encodings) -> dict[str, Tensor]:
    """The table as an unquantized checkpoint would have it."""
    used = {name for encoded in encodings.values() for name in encoded.parts.values()}
    left = {name: tensor for name, tensor in tensors.items() if name not in used and not _is_side_note(name)}
    made = {
        name: Tensor(file="", offset=0, nbytes=0, dtype="float32", shape=encoded.shape)
        for name, encoded in encodings.items()
    }
    return {**left, **made}


def _is_side_note(name: str) -> bool:
    """Scales of activations and caches, which are rounded here by what they are, not by what was seen."""
    return name.rpartition(".")[2] in _SIDE_NOTES


_SIDE_NOTES = frozenset({
    "input_scale", "output_scale", "input_zero_point", "k_scale", "v_scale", "q_scale", "weight_shape", "act_scale",
    "activation_scale", "weight_format",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Door:
    """What a method is told, and how it refuses."""

    folder: Path
    said: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def ending(self, suffix: str) -> Iterator[tuple[str, Tensor]]:
        """Tensors with this ending, under the name without it."""
        for name, tensor in self.tensors.items():
            if name.endswith(suffix):
                yield name.removesuffix(suffix), tensor

    def number(self, key: str, allowed: tuple[int, ...] | None = None) -> int:
        value = self.said.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            self.unsupported(f"quant_method {self.said.get('quant_method')}: {key} is {value!r:.40}", "a whole number")
        if allowed is not None and value not in allowed:
            words = ", ".join(map(str, allowed))
            self.unsupported(f"quant_method {self.said.get('quant_method')}: {key} is {value}", f"read are {words}")
        return value

    def parts(self, base: str, roles: Mapping[str, str], optional: Mapping[str, str] = {}) -> dict[str, str]:
        """Role -> tensor name; a missing one is refused by name."""
        for suffix in roles.values():
            if f"{base}.{suffix}" not in self.tensors:
                raise ModelError(
                    "model.weights", f"missing tensors: {base}.{suffix}", where=str(self.folder), hint="fetch it again"
                )
        more = {role: suffix for role, suffix in optional.items() if f"{base}.{suffix}" in self.tensors}
        return {role: f"{base}.{suffix}" for role, suffix in {**roles, **more}.items()}

    def read(self, name: str) -> bytes:
        tensor = self.tensors[name]
        with (self.folder / tensor.file).open("rb") as file:
            file.seek(tensor.offset)
            return file.read(tensor.nbytes)

    def expect(self, name: str, shape: tuple[int, ...], why: str) -> None:
        found = self.tensors[name].shape
        if found != shape:
            self.contradicts(f"{why}: {name} should be {list(shape)}, but is {list(found)}")

    def unsupported(self, what: str, hint: str) -> NoReturn:
        where = line_of(self.folder / CONFIG, KEY)
        raise ModelError("model.unsupported", f"{CONFIG}: {KEY}: {what} is not read", where=where, hint=hint)

    def contradicts(self, what: str) -> NoReturn:
        where = line_of(self.folder / CONFIG, KEY)
        hint = "config.json and the weights are of different models, or a file is missing"
        raise ModelError("model.config", f"{CONFIG}: {KEY} {what}", where=where, hint=hint)


def _gptq(door: _Door) -> Iterator[tuple[str, Encoded]]:
    bits = door.number("bits", (2, 3, 4, 8))
    group, version = door.number("group_size"), door.said.get("checkpoint_format", "gptq")
    if version not in ("gptq", "gptq_v2"):
        door.unsupported(f"checkpoint_format {version!r:.40}", "read are gptq and gptq_v2")
    for base, packed in door.ending(".qweight"):
        roles = {"numbers": "qweight", "zeros": "qzeros", "scales": "scales"}
        parts = door.parts(base, roles, {"group": "g_idx"})
        columns, rows = packed.shape[0] * 32 // bits, packed.shape[1]
        size = columns if group == -1 else group
        groups = -(-columns // size)
        door.expect(parts["scales"], (groups, rows), f"says group_size {group}")
        door.expect(parts["zeros"], (groups, rows * bits // 32), f"says {bits} bits")
        options = {"bits": bits, "group_size": size, "permuted": bool(door.said.get("desc_act")) and "group" in parts}
        options |= {"zero_offset": int(version == "gptq"), "symmetric": bool(door.said.get("sym", True))}
        yield f"{base}.weight", Encoded(format="gptq", shape=(rows, columns), parts=parts, options=options)


def _awq(door: _Door) -> Iterator[tuple[str, Encoded]]:
    bits, group = door.number("bits" if "bits" in door.said else "w_bit", (4,)), door.said.get("group_size", -1)
    version = str(door.said.get("version", "gemm")).lower()
    if version != "gemm":
        door.unsupported(f"awq version {version:.40}", "the checkpoint in its gemm version")
    for base, packed in door.ending(".qweight"):
        parts = door.parts(base, {"numbers": "qweight", "zeros": "qzeros", "scales": "scales"})
        columns, rows = packed.shape[0], packed.shape[1] * 32 // bits
        size = columns if group == -1 else group
        door.expect(parts["scales"], (-(-columns // size), rows), f"says group_size {group}")
        options = {"bits": bits, "group_size": size}
        yield f"{base}.weight", Encoded(format="awq", shape=(rows, columns), parts=parts, options=options)


def _compressed(door: _Door) -> Iterator[tuple[str, Encoded]]:
    for base, tensor in door.ending(".weight_packed"):
        if f"{base}.weight_global_scale" in door.tensors or f"{base}.weight_shape" not in door.tensors:
            door.unsupported("compressed-tensors in 4-bit floats", "a checkpoint in pack-quantized, int8 or fp8 form")
        roles = {"numbers": "weight_packed", "scales": "weight_scale"}
        parts = door.parts(base, roles, {"zeros": "weight_zero_point", "group": "weight_g_idx"})
        raw, wide = door.read(f"{base}.weight_shape"), door.tensors[f"{base}.weight_shape"].dtype == "int64"
        size = 8 if wide else 4
        rows, columns = (int.from_bytes(raw[at * size : (at + 1) * size], "little") for at in (0, 1))
        bits = tensor.shape[1] * 32 // max(columns, 1)
        if tensor.shape[0] != rows or bits not in (4, 8):
            door.contradicts(
                f"does not fit: {base}.weight_packed is {list(tensor.shape)} for a weight {rows} x {columns}"
            )
        options = {"bits": bits, "group_size": _size(door, parts["scales"], columns), "permuted": "group" in parts}
        yield f"{base}.weight", Encoded(format="packed", shape=(rows, columns), parts=parts, options=options)
    for base, tensor in door.ending(".weight"):
        if tensor.dtype not in ("int8", "float8_e4m3fn") or len(tensor.shape) != 2:
            continue
        is_float = tensor.dtype != "int8"
        optional = {} if is_float else {"zeros": "weight_zero_point"}
        parts = door.parts(base, {"numbers": "weight", "scales": "weight_scale"}, optional)
        options = {} if is_float else {"bits": 8, "group_size": _size(door, parts["scales"], tensor.shape[1])}
        yield (
            f"{base}.weight",
            Encoded(format="fp8" if is_float else "int8", shape=tensor.shape, parts=parts, options=options),
        )


def _size(door: _Door, scales: str, columns: int) -> int:
    shape = door.tensors[scales].shape
    groups = shape[1] if len(shape) == 2 else 1
    if not groups or columns % groups:
        door.contradicts(f"does not fit: {scales} has {groups} groups for {columns} inputs")
    return columns // groups


def _fp8(door: _Door) -> Iterator[tuple[str, Encoded]]:
    block = door.said.get("weight_block_size")
    for base, tensor in door.ending(".weight"):
        if tensor.dtype != "float8_e4m3fn":
            continue
        name = next((name for name in ("weight_scale_inv", "weight_scale") if f"{base}.{name}" in door.tensors), None)
        parts = door.parts(base, {"numbers": "weight", "scales": name or "weight_scale_inv"})
        if block and name == "weight_scale_inv":
            sizes = tuple(-(-size // each) for size, each in zip(tensor.shape[-2:], block, strict=True))
            door.expect(parts["scales"], (*tensor.shape[:-2], *sizes), f"says weight_block_size {block}")
        options = {"block": list(block)} if block else {}
        yield f"{base}.weight", Encoded(format="fp8", shape=tensor.shape, parts=parts, options=options)


def _mxfp4(door: _Door) -> Iterator[tuple[str, Encoded]]:
    for base, tensor in door.ending("_blocks"):
        scales = f"{base}_scales"
        if scales not in door.tensors or tensor.dtype != "uint8" or len(tensor.shape) < 3:
            door.contradicts(f"does not fit: {base}_blocks has no scales of its own")
        *outer, rows, groups, half = tensor.shape
        door.expect(scales, (*outer, rows, groups), "says mxfp4")
        # transformers keeps experts as [experts, in, out]; the blocks run along what comes in.
        shape = (*outer, groups * half * 2, rows) if outer else (rows, groups * half * 2)
        parts = {"numbers": f"{base}_blocks", "scales": scales}
        yield base, Encoded(format="mxfp4", shape=shape, parts=parts, options={"bits": 8, "group_size": 2 * half})


def _bitsandbytes(door: _Door) -> Iterator[tuple[str, Encoded]]:
    for base, tensor in door.ending(".SCB"):
        weight = door.tensors.get(f"{base}.weight")
        if weight is None or weight.dtype != "int8":
            door.contradicts(f"does not fit: {base}.SCB of {list(tensor.shape)} has no int8 weight")
        parts = {"numbers": f"{base}.weight", "scales": f"{base}.SCB"}
        options = {"bits": 8, "group_size": weight.shape[1]}
        yield f"{base}.weight", Encoded(format="bnb8", shape=weight.shape, parts=parts, options=options)
    for kind in ("nf4", "fp4"):
        for base, _ in door.ending(f".weight.quant_state.bitsandbytes__{kind}"):
            note = f"{base}.weight.quant_state.bitsandbytes__{kind}"
            said = json.loads(door.read(note))
            roles = {"numbers": "weight", "scales": "weight.absmax", "map": "weight.quant_map"}
            nested = {"nested": "weight.nested_absmax", "nested_map": "weight.nested_quant_map"}
            parts = {**door.parts(base, roles, nested), "note": note}
            options = {name: said[name] for name in ("blocksize", "nested_blocksize", "nested_offset") if name in said}
            yield f"{base}.weight", Encoded(format="bnb4", shape=tuple(said["shape"]), parts=parts, options=options)


def _gguf(door: _Door) -> Iterator[tuple[str, Encoded]]:
    """What models/gguf.py wrote: the blocks of each weight as they were in its GGUF file."""
    for name, said in door.said["tensors"].items():
        shape = tuple(reversed(said["shape"]) if said["turned"] else said["shape"])
        options: dict[str, Any] = {"type": said["type"], "turned": said["turned"]}
        form = GGML.get(said["type"])
        if form is not None:
            options |= {"bits": form[0], "group_size": form[1]}
        format = "ggml" if form is None else f"ggml_{said['type'].lower()}"
        yield name, Encoded(format=format, shape=shape, parts={"numbers": f"{name}.ggml"}, options=options)


_METHODS: Mapping[str, Callable[[_Door], Iterator[tuple[str, Encoded]]]] = {
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
    "fp8": _fp8,
    "gguf": _gguf,
    "gptq": _gptq,
    "mxfp4": _mxfp4,
}
