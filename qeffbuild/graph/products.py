"""Matrix products with a weight of the checkpoint: where they are in a graph, and how they are quantized."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import foldable_values, sources

_KEEPS_ORDER = frozenset({"Softmax", "Sigmoid", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Add"})


@dataclass(frozen=True, slots=True)
class Product:
    """x @ weight + bias. `weight` is [K, N], or [N, K] where `is_transposed`."""

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    is_transposed: bool
    makes_logits: bool
    is_router: bool  # it chooses experts: a small error would choose others


def products(graph: ir.Graph, logits: str = "logits") -> Iterator[Product]:
    """Every MatMul and plain Gemm whose right side is made from stored weights alone, in order."""
    foldable = foldable_values(graph)
    head = _head(graph, logits)
    for node in list(graph):
        if node.domain != "" or node.op_type not in ("MatMul", "Gemm"):
            continue
        x, weight = node.inputs[:2]
        if x is None or weight is None or weight not in foldable or x in foldable or not sources(weight):
            continue
        if node.op_type == "Gemm" and not _is_plain(node):
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        turned = _attribute(node, "transB", 0) == 1
        yield Product(
            node, x, weight, bias, turned, makes_logits=node is head, is_router=_is_chosen_from(node.outputs[0])
        )


def replace_product(
    emit: Emitter, product: Product, numbers: list[ir.Value], *, bits: int, block_size: int, rows: int, columns: int
) -> None:
    """Puts MatMulNBits in a product's place. `numbers`: packed weights [rows, columns], scales, zero points if any."""
    graph = product.node.graph
    assert isinstance(graph, ir.Graph)
    fused = product.bias if product.bias is not None and _is_vector(product.bias, rows) else None
    inputs: list[ir.Value | None] = [product.x, *numbers]
    if fused is not None:
        inputs += [None] * (5 - len(inputs)) + [fused]
    result = emit(
        "MatMulNBits", *inputs, domain="com.microsoft", K=columns, N=rows, bits=bits, block_size=block_size,
        accuracy_level=4,  # products of integers; the default would turn the weights back into floats first
    )  # fmt: skip
    if product.bias is not None and fused is None:
        result = emit("Add", result, product.bias)
    replace_value(graph, product.node.outputs[0], result)
    emit.place(product.node)


def as_rows(product: Product, weight: np.ndarray) -> np.ndarray:
    """A product's weight as float32 [N, K]: one row for each output."""
    return np.asarray(weight if product.is_transposed else weight.T, np.float32)


def _head(graph: ir.Graph, logits: str) -> ir.Node | None:
    """The product that makes the logits, looked for through whatever is done to them afterwards."""
    value = next((output for output in graph.outputs if output.name == logits), None)
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in ("MatMul", "Gemm"):
            return node
        value = node.inputs[0] if node.inputs else None
    return None


def _is_chosen_from(value: ir.Value) -> bool:
    """Whether the largest of these numbers are looked for, perhaps after they were made into shares."""
    for node, _ in value.uses():
        if node.op_type == "TopK":
            return True
        if node.op_type in _KEEPS_ORDER and _is_chosen_from(node.outputs[0]):
            return True
    return False


def _is_plain(node: ir.Node) -> bool:
    return (
        _attribute(node, "alpha", 1.0) == 1.0
        and _attribute(node, "beta", 1.0) == 1.0
        and _attribute(node, "transA", 0) == 0
    )


def _attribute(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].value if name in node.attributes else default


def _is_vector(value: ir.Value, size: int) -> bool:
    return value.shape is not None and tuple(value.shape) == (size,)
