"""Weights as other tools store them -> floats, or integers in blocks as MatMulNBits reads them.

Two operators stand for that in a graph, `Decode` and `Blocks`; both are computed where weights are written, one weight
at a time, so a graph can refer to a quantized checkpoint's own bytes. In all of this N counts outputs, K inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.errors import ModelError
from qeffbuild.graph import ggml
from qeffbuild.graph.blocks import Grid
from qeffbuild.graph.files import DOMAIN

DECODE, BLOCKS = "Decode", "Blocks"
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # the place in an int32 of each of eight numbers that follow one another
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int16)  # in halves


def is_encoded(graph: ir.Graph) -> bool:
    """Whether weights have to be written anew before anybody else can read the graph."""
    return any(node.domain == DOMAIN and node.op_type in (DECODE, BLOCKS) for node in graph)


Parts = Mapping[str, np.ndarray]
Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Integers:
    """(numbers - zeros) * scales: numbers [..., N, K] and one scale and zero [..., N, groups] for each group of them.

    `group` says which group a column is in, where that is not its place divided by the size of a group.
    """

    numbers: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    group_size: int
    group: np.ndarray | None = None

    def floats(self) -> np.ndarray:
        columns = self.numbers.shape[-1]
        group = np.arange(columns) // self.group_size if self.group is None else self.group
        scales, zeros = self.scales[..., group], self.zeros[..., group]
        return ((self.numbers.astype(np.float32) - zeros) * scales).astype(np.float32)


def gptq(parts: Parts, options: Options) -> Integers:
    bits = options["bits"]
    numbers = unpacked(parts["numbers"].T, bits)
    words = _one_more(parts["zeros"], bits) if options["zero_offset"] else parts["zeros"]
    zeros = unpacked(words, bits)[:, : len(numbers)].T.astype(np.int16)
    return Integers(numbers, _float(parts["scales"]).T, zeros, options["group_size"], parts.get("group"))


def _one_more(words: np.ndarray, bits: int) -> np.ndarray:
    """The first version stores zero points less one, taken off whole words: a zero borrowed from its neighbour."""
    ones = np.zeros(32 * words.shape[1], np.uint8)
    ones[: ones.size // bits * bits : bits] = 1
    added = words.view(np.uint32) + np.packbits(ones, bitorder="little").view(np.uint32)
    return added.view(np.int32)


def awq(parts: Parts, options: Options) -> Integers:
    numbers = unpacked(parts["numbers"], 4).reshape(len(parts["numbers"]), -1, 8)[..., AWQ_ORDER]
    zeros = unpacked(parts["zeros"], 4).reshape(len(parts["zeros"]), -1, 8)[..., AWQ_ORDER]
    scales = _float(parts["scales"]).T
    return Integers(numbers.reshape(len(numbers), -1).T, scales, zeros.reshape(len(zeros), -1).T, options["group_size"])


def packed(parts: Parts, options: Options) -> Integers:
    """compressed-tensors: signed numbers with half of their range added, the first one lowest."""
    bits = options["bits"]
    rows, scales = len(parts["numbers"]), _float(parts["scales"])
    scales = scales.reshape(-1, scales.shape[1] if scales.ndim == 2 else 1)
    scales = np.broadcast_to(scales, (rows, scales.shape[1]))
    numbers = unpacked(parts["numbers"], bits)[:, : options["group_size"] * scales.shape[1]]
    zeros = np.full(scales.shape, 1 << (bits - 1), np.int16)
    if "zeros" in parts:
        stored = parts["zeros"]
        is_packed = stored.dtype == np.int32
        zeros = unpacked(stored.T, bits).T[:rows] if is_packed else stored.astype(np.int16) + (1 << (bits - 1))
    return Integers(numbers, scales, zeros, options["group_size"], parts.get("group"))


def int8(parts: Parts, options: Options) -> Integers:
    numbers, scales = parts["numbers"], _float(parts["scales"])
    groups = scales.shape[1] if scales.ndim == 2 else 1
    scales = np.broadcast_to(scales.reshape(-1, groups), (len(numbers), groups))
    zeros = np.full(scales.shape, 128, np.int16)
    if "zeros" in parts:
        zeros = zeros + np.broadcast_to(parts["zeros"].reshape(-1, scales.shape[1]), scales.shape)
    return Integers((numbers.astype(np.int16) + 128).astype(np.uint8), scales, zeros, options["group_size"])


def bnb8(parts: Parts, options: Options) -> Integers:
    numbers = (parts["numbers"].astype(np.int16) + 128).astype(np.uint8)
    scales = (_float(parts["scales"]) / 127).reshape(-1, 1)
    return Integers(numbers, scales, np.full(scales.shape, 128, np.int16), options["group_size"])


def mxfp4(parts: Parts, options: Options) -> Integers:
    numbers = parts["numbers"]
    return _halves(numbers.reshape(*numbers.shape[:-2], -1), _power(parts["scales"]), options["group_size"])


def e2m1(parts: Parts, options: Options) -> Integers:
    """NVFP4, whose scales are floats of 8 bits over another number for the whole weight, or MXFP4."""
    if "whole" not in parts:
        return _halves(parts["numbers"], _power(parts["scales"]), options["group_size"])
    return _halves(parts["numbers"], _float(parts["scales"]) / _float(parts["whole"]), options["group_size"])


def _halves(codes: np.ndarray, scales: np.ndarray, group_size: int) -> Integers:
    """e2m1 in halves is a whole number of at most 12, so blocks of 8 bits hold it exactly."""
    halves = np.stack([E2M1[codes & 15], E2M1[codes >> 4]], axis=-1).reshape(*codes.shape[:-1], -1)
    zeros = np.full(scales.shape, 128, np.int16)
    return Integers((halves + 128).astype(np.uint8), scales * np.float32(0.5), zeros, group_size)


def fp8(parts: Parts, options: Options) -> np.ndarray:
    weight = _float(parts["numbers"])
    scales = _power(parts["scales"]) if options.get("powers") else _float(parts["scales"])
    if "block" in options:
        high, wide = options["block"]
        scales = scales.repeat(high, axis=0)[: weight.shape[0]].repeat(wide, axis=1)[:, : weight.shape[1]]
    elif scales.size > 1:
        scales = scales.reshape(-1, 1)
    return weight * scales


def bnb4(parts: Parts, options: Options) -> np.ndarray:
    """Codes of 4 bits into a table, the first one high; scales may be codes of 8 bits into another table."""
    packed = parts["numbers"].reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)[: options["count"]]
    scales = parts["scales"]
    if "nested" in parts:
        coarse = np.repeat(_float(parts["nested"]), options["nested_blocksize"])[: scales.size]
        scales = _float(parts["nested_map"])[scales] * coarse + np.float32(options["nested_offset"])
    return _float(parts["map"])[codes] * np.repeat(_float(scales), options["blocksize"])[: codes.size]


def ggml_integers(parts: Parts, options: Options) -> Integers:
    numbers, zero, scales = ggml.INTEGERS[options["type"].lower()](parts["numbers"])
    return Integers(numbers, scales, np.full(scales.shape, zero, np.int16), options["group_size"])


def ggml_floats(parts: Parts, options: Options) -> np.ndarray:
    return ggml.floats(parts["numbers"], options["type"])


INTEGERS: Mapping[str, Callable[[Parts, Options], Integers]] = {
    "gptq": gptq, "awq": awq, "packed": packed, "int8": int8, "bnb8": bnb8, "mxfp4": mxfp4, "e2m1": e2m1,
    **{f"ggml_{kind}": ggml_integers for kind in ggml.INTEGERS},
}  # fmt: skip
FLOATS: Mapping[str, Callable[[Parts, Options], np.ndarray]] = {"fp8": fp8, "bnb4": bnb4, "ggml": ggml_floats}


def unpacked(words: np.ndarray, bits: int) -> np.ndarray:
    """int32 [..., W] -> the small numbers in each row, lowest bits first, across words where 32 is no multiple."""
    raw = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape[:-1], -1)
    if bits == 8:
        return raw
    if bits == 4:
        return np.stack([raw & 15, raw >> 4], axis=-1).reshape(*raw.shape[:-1], -1)
    spread = np.unpackbits(raw, axis=-1, bitorder="little")
    spread = spread.reshape(*spread.shape[:-1], -1, bits)
    return (spread << np.arange(bits, dtype=np.uint8)).sum(-1, dtype=np.uint8)


def evaluate_decode(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return [decode(*_told(node, inputs))]


def decode(format: str, parts: Parts, options: Options, shape: tuple[int, ...]) -> np.ndarray:
    """The weight in float32 and in the shape that the plain checkpoint would have."""
    found = FLOATS[format](parts, options) if format in FLOATS else INTEGERS[format](parts, options).floats()
    if options.get("turned"):
        found = found.T
    if len(shape) == 3 and found.shape != shape:
        found = found.transpose(0, 2, 1)
    return found.reshape(shape)


def evaluate_blocks(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """One of `numbers`, `scales`, `zeros` and `order`, the last being the inputs in the order of their groups."""
    format, parts, options, _ = _told(node, inputs)
    found = INTEGERS[format](parts, options)
    part, bits = node.attributes["part"].as_string(), node.attributes["bits"].as_int()
    expert = node.attributes["expert"].as_int()
    if part == "order":
        assert found.group is not None
        return [np.argsort(found.group, kind="stable").astype(np.int64)]
    if expert >= 0:
        found = Integers(found.numbers[expert], found.scales[expert], found.zeros[expert], found.group_size)
    blocks = _in_blocks(found, bits, node.attributes["block_size"].as_int())
    return [{"numbers": blocks.packed, "scales": blocks.scales, "zeros": blocks.zero_points}[part]]


def _in_blocks(found: Integers, bits: int, block_size: int) -> Any:
    if int(found.zeros.max(initial=0)) >= 1 << bits or int(found.zeros.min(initial=0)) < 0:
        raise ModelError(
            "model.unsupported",
            f"a zero point of {int(found.zeros.max())} does not fit {bits} bits",
            hint="quantize the weights anew: quantization=int8",
        )
    numbers = found.numbers
    if found.group is not None:
        numbers = numbers[:, np.argsort(found.group, kind="stable")]
    per_group = -(-found.group_size // block_size)
    count = -(-numbers.shape[1] // block_size)
    scales = found.scales.repeat(per_group, axis=1)[:, :count]
    zeros = found.zeros.repeat(per_group, axis=1)[:, :count]
    return Grid(scales, zeros.astype(np.float32), bits, block_size, symmetric=False).blocks(numbers)


def _told(node: ir.Node, inputs: list[np.ndarray]) -> tuple[str, dict[str, np.ndarray], Options, tuple[int, ...]]:
    parts = dict(zip(node.attributes["roles"].as_strings(), inputs, strict=True))
    options = json.loads(node.attributes["options"].as_string())
    shape = tuple(node.attributes["shape"].as_ints())
    return node.attributes["format"].as_string(), parts, options, shape


def _float(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def _power(exponents: np.ndarray) -> np.ndarray:
    """E8M0: a power of two."""
    return np.ldexp(np.float32(1), exponents.astype(np.int32) - 127)
