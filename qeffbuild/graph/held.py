"""Products with a weight that the checkpoint quantized already -> MatMulNBits that holds the same integers.

Only the form of the graph changes here: the integers are laid out anew where weights are written, one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import onnx_ir as ir

from qeffbuild.graph.decode import BLOCKS, DECODE, INTEGERS
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.files import DOMAIN
from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.products import Matrices, Packed, Product, products, replace_product

# Formats without zero points of their own.
_ALWAYS_SYMMETRIC = ("int8", "bnb8", "mxfp4", "e2m1", "packed", "ggml_q4_0", "ggml_q8_0")


def hold_blocks(graph: ir.Graph, bits: Collection[int] = (4, 8)) -> dict[str, str]:
    """What became of each encoded weight that a product reads, by its name: its form, or why it becomes floats.

    `bits` are the widths of integers that whoever runs the graph takes.
    """
    emit = Emitter(graph, "held")
    said: dict[str, str] = {}
    for product in list(products(graph)):
        decode = _decoded(product)
        if decode is None:
            said |= {name: "floats: it is joined with others first" for name in decoded_names(product.weight)}
            continue
        name = decode.outputs[0].name or ""
        form = _form(decode)
        if isinstance(form, str):
            said[name] = form
            continue
        width, block_size = form
        if width not in bits:
            said[name] = f"floats: {width} bits are too many here"
            continue
        _replace(emit, product, decode, width, block_size)
        said[name] = f"{width} bits in blocks of {block_size}, as stored"
    remove_unread(graph)
    if said:
        graph.opset_imports["com.microsoft"] = 1
    return said


def decoded_names(value: ir.Value) -> list[str]:
    """Names of the encoded weights that a foldable value is made from."""
    node = value.producer()
    if node is None:
        return []
    if node.domain == DOMAIN and node.op_type == DECODE:
        return [node.outputs[0].name or ""]
    return [name for item in node.inputs if item is not None for name in decoded_names(item)]


def _decoded(product: Product) -> ir.Node | None:
    """The Decode whose whole output is the product's weight, one row for each output however the product wants it."""
    node, has_rows = product.weight.producer(), product.is_transposed
    if node is not None and node.op_type == "Transpose" and node.attributes["perm"].as_ints() == (1, 0):
        inner, has_rows = node.inputs[0], not has_rows
        node = inner.producer() if inner is not None and len(inner.shape or ()) == 2 else None
    if node is None or not _is_decode(node):
        return None
    return node if has_rows != _is_turned(node) or len(_shape(node)) == 3 else None


def _form(decode: ir.Node) -> tuple[int, int] | str:
    """Bits and block size that hold the integers exactly, or the reason why none do."""
    format, options = decode.attributes["format"].as_string(), json.loads(decode.attributes["options"].as_string())
    if format not in INTEGERS:
        return f"floats: {options.get('type', format)} has no form in integers"
    columns = _columns(decode)
    size = options["group_size"]
    block_size = next((each for each in (128, 64, 32, 16) if size % each == 0), None)
    if block_size is None and size >= columns:  # one group: any block will do
        block_size = 32
    if block_size is None:
        return f"floats: groups of {size} are no blocks"
    if options.get("permuted") and columns % size:
        return "floats: its inputs are permuted and the last group is short"
    return (8 if options["bits"] > 4 else 4), block_size


def _replace(emit: Emitter, product: Product, decode: ir.Node, bits: int, block_size: int) -> None:
    shape, columns = _shape(decode), _columns(decode)
    rows = shape[2] if len(shape) == 3 else shape[1 if _is_turned(decode) else 0]
    experts = range(shape[0]) if len(shape) == 3 else (-1,)
    options = json.loads(decode.attributes["options"].as_string())
    if options.get("permuted"):
        order = _part(emit, decode, "order", -1, bits, block_size, [columns], ir.DataType.INT64)
        gathered = emit("Gather", product.x, order, axis=-1)
        gathered.shape, gathered.type = product.x.shape, product.x.type
        product.node.replace_input_with(0, gathered)
    blocks = -(-columns // block_size)
    zeros = blocks if bits == 8 else -(-blocks // 2)
    sizes: Mapping[str, tuple[list[int], ir.DataType]] = {
        "numbers": ([rows, blocks, block_size * bits // 8], ir.DataType.UINT8),
        "scales": ([rows * blocks], product.x.dtype or ir.DataType.FLOAT),
        "zeros": ([rows * zeros], ir.DataType.UINT8),
    }
    if decode.attributes["format"].as_string() in _ALWAYS_SYMMETRIC and "zeros" not in _roles(decode):
        sizes = {role: said for role, said in sizes.items() if role != "zeros"}
    packed = [
        Packed(
            tuple(_part(emit, decode, part, expert, bits, block_size, *said) for part, said in sizes.items()),
            rows, columns, bits, block_size,
        )
        for expert in experts
    ]  # fmt: skip
    replace_product(emit, product, Matrices(tuple(packed), is_stack=len(shape) == 3))


def _part(
    emit: Emitter, decode: ir.Node, part: str, expert: int, bits: int, block_size: int, shape: list[int],
    dtype: ir.DataType,
) -> ir.Value:  # fmt: skip
    told: dict[str, Any] = {name: decode.attributes[name].value for name in ("format", "roles", "options", "shape")}
    made = emit(
        BLOCKS, *decode.inputs, domain=DOMAIN, **told, part=part, expert=expert, bits=bits, block_size=block_size
    )
    made.shape, made.type = ir.Shape(shape), ir.TensorType(dtype)
    expert_name = f".{expert}" if expert >= 0 else ""
    made.name = f"{decode.outputs[0].name}{expert_name}.{part}"
    return made


def _is_decode(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == DECODE


def _roles(decode: ir.Node) -> list[str]:
    return list(decode.attributes["roles"].as_strings())


def _shape(decode: ir.Node) -> tuple[int, ...]:
    return tuple(decode.attributes["shape"].as_ints())


def _columns(decode: ir.Node) -> int:
    return _shape(decode)[0 if _is_turned(decode) else 1]


def _is_turned(decode: ir.Node) -> bool:
    """Whether the weight has a column for each output, though what is stored has a row."""
    return bool(json.loads(decode.attributes["options"].as_string()).get("turned"))
