"""Matrix products with a weight of the checkpoint: where they are in a graph, and how they are quantized.

The weight is a matrix, or the matrices of several experts in a stack that one product goes through at once.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import foldable_values, sources
from qeffbuild.graph.ops import ATTENTION, symbolic

_PRODUCTS = ("MatMul", "Gemm")
_KEEPS_ORDER = frozenset({"Softmax", "Sigmoid", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Add"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """x @ weight + bias. `weight` is [K, N], or [N, K] where `is_transposed`."""

    node: ir.Node
    weight: ir.Value
    bias: ir.Value | None
    is_transposed: bool
    makes_logits: bool
    is_router: bool  # it chooses experts, or the tokens that are looked at
    makes: frozenset[str]  # what of attention: queries, keys, values
    reads_answers: bool  # of attention

    @property
    def carries_values(self) -> bool:
        """Whether values go through it, into attention or out of it."""
        return "values" in self.makes or self.reads_answers

    @property
    def x(self) -> ir.Value:
        x = self.node.inputs[0]
        assert x is not None
        return x


def products(graph: ir.Graph, logits: str = "logits") -> Iterator[Product]:
    """Every MatMul and plain Gemm whose right side is made from stored weights alone, in order."""
    foldable = foldable_values(graph)
    head = head_of(graph, logits)
    makers, behind = _around_attention(graph)
    last = next((node for node in reversed(graph) if node.op_type in _PRODUCTS and node.inputs[1] in foldable), None)
    for node in list(graph):
        if node.domain != "" or node.op_type not in _PRODUCTS:
            continue
        x, weight = node.inputs[:2]
        if x is None or weight is None or weight not in foldable or x in foldable or not sources(weight):
            continue
        if node.op_type == "Gemm" and not _is_plain(node):
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        turned = _attribute(node, "transB", 0) == 1
        yield Product(
            node=node,
            weight=weight,
            bias=bias,
            is_transposed=turned,
            makes_logits=node is head,
            is_router=_is_chosen_from(node.outputs[0]) or (node is not last and _only_chooses(node, foldable)),
            makes=frozenset(what for what in makers if node in makers[what]),
            reads_answers=node in behind,
        )


def by_input(graph: ir.Graph) -> list[list[Product]]:
    """All products, those that read the same value together, in the order in which what they read is made."""
    place = {out: at for at, node in enumerate(graph) for out in node.outputs}
    groups: dict[ir.Value, list[Product]] = {}
    for product in products(graph):
        groups.setdefault(product.x, []).append(product)
    return sorted(groups.values(), key=lambda group: place.get(group[0].x, -1))


def matrix_shape(weight: ir.Value) -> tuple[int, int] | None:
    """Rows and columns of a matrix, as it is or as it is turned; None where it is none, or its shape is not known."""
    maker, shape = weight.producer(), weight.shape
    if shape is None and maker is not None and maker.op_type == "Transpose" and maker.inputs[0] is not None:
        turned = maker.inputs[0].shape
        shape = None if turned is None else ir.Shape(list(turned)[::-1])
    if shape is None or len(shape) != 2:
        return None
    rows, columns = shape
    return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None


@dataclass(frozen=True, slots=True)
class Packed:
    """One quantized matrix in the graph: `numbers` are packed weights [rows, columns], scales, zero points if any."""

    numbers: tuple[ir.Value, ...]
    rows: int
    columns: int
    bits: int
    block_size: int


@dataclass(frozen=True, slots=True)
class Matrices:
    """What takes a weight's place: one matrix, or one for each expert of a stack."""

    packed: tuple[Packed, ...]
    is_stack: bool


def replace_product(emit: Emitter, product: Product, made: Matrices) -> None:
    """Puts MatMulNBits in a product's place, one for each of its matrices."""
    graph = product.node.graph
    assert isinstance(graph, ir.Graph)
    first, fused = made.packed[0], None
    if made.is_stack:
        result = _stacked(emit, product.x, made.packed)
    else:
        fused = product.bias if product.bias is not None and _is_vector(product.bias, first.rows) else None
        result = _one(emit, product.x, first, fused)
    if product.bias is not None and fused is None:
        result = emit("Add", result, product.bias)
    replace_value(graph, product.node.outputs[0], result)
    emit.place(product.node)


def _one(emit: Emitter, x: ir.Value, matrix: Packed, bias: ir.Value | None) -> ir.Value:
    inputs: list[ir.Value | None] = [x, *matrix.numbers]
    if bias is not None:
        inputs += [None] * (5 - len(inputs)) + [bias]
    return emit(
        "MatMulNBits", *inputs, domain="com.microsoft", K=matrix.columns, N=matrix.rows, bits=matrix.bits,
        block_size=matrix.block_size,
        accuracy_level=4,  # products of integers; the default would turn the weights back into floats first
    )  # fmt: skip


def _stacked(emit: Emitter, x: ir.Value, matrices: tuple[Packed, ...]) -> ir.Value:
    """x is [experts or 1, tokens, columns]: each expert's rows, or the same rows for all."""
    assert x.shape is not None
    parts: tuple[ir.Value, ...] = (x,) * len(matrices)
    if x.shape[0] != 1 and len(matrices) > 1:
        parts = emit.several("Split", len(matrices), x, [1] * len(matrices), axis=0)
    made = [_one(emit, part, matrix, None) for part, matrix in zip(parts, matrices, strict=True)]
    return emit("Concat", *made, axis=0) if len(made) > 1 else made[0]


def divide_input(emit: Emitter, group: Sequence[Product], factors: np.ndarray) -> None:
    """Divides what these products read. A norm's own weight takes the division over where nobody else reads it."""
    x = group[0].x
    nodes = {product.node for product in group}
    inverse = (1 / factors).astype((x.dtype or ir.DataType.FLOAT).numpy())
    maker = x.producer()
    is_ours = maker is not None and all(node in nodes for node, _ in x.uses()) and not x.is_graph_output()
    if is_ours and maker is not None and (places := _weights_of_norm(maker, len(factors))):
        for place in places:
            old = maker.inputs[place]
            assert old is not None
            maker.replace_input_with(place, emit("Mul", old, inverse))
        emit.place(maker)
        return
    divided = emit("Mul", x, inverse)
    divided.shape, divided.type = x.shape, x.type
    emit.place(group[0].node)
    for product in group:
        product.node.replace_input_with(0, divided)


def _weights_of_norm(node: ir.Node, width: int) -> list[int]:
    """The inputs that scale a node's whole output column by column: of a norm, or of its last multiplication."""
    if node.op_type in ("LayerNormalization", "RMSNormalization"):
        return [at for at, value in enumerate(node.inputs) if at > 0 and value is not None]
    if node.op_type == "Mul":
        return [at for at, value in enumerate(node.inputs) if value is not None and _is_stored_vector(value, width)][:1]
    return []


def _is_stored_vector(value: ir.Value, width: int) -> bool:
    return _is_vector(value, width) and (value.is_initializer() or bool(sources(value)))


def why_not(product: Product, weight: np.ndarray) -> str | None:
    """The reason why a product cannot be quantized."""
    if product.is_router:
        return "it chooses experts or tokens: a small error would choose others"
    if weight.ndim == 2:
        return None
    shape = product.x.shape
    if weight.ndim != 3 or shape is None or len(shape) != 3 or shape[0] not in (1, len(weight)):
        return f"{weight.ndim} axes: only matrices and stacks of them are quantized"
    return None


def as_rows(product: Product, weight: np.ndarray) -> list[np.ndarray]:
    """A product's matrices as float32 [N, K]: one row for each output."""
    stack = weight if weight.ndim == 3 else weight[None]
    return [np.asarray(matrix if product.is_transposed else matrix.T, np.float32) for matrix in stack]


def head_of(graph: ir.Graph, logits: str) -> ir.Node | None:
    """The product that makes the logits, looked for through whatever is done to them afterwards."""
    value = next((output for output in graph.outputs if output.name == logits), None)
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in _PRODUCTS:
            return node
        value = node.inputs[0] if node.inputs else None
    return None


def _around_attention(graph: ir.Graph) -> tuple[dict[str, set[ir.Node]], set[ir.Node]]:
    """The products that attention's queries, keys and values come from, and those right behind it."""
    makers: dict[str, set[ir.Node]] = {"queries": set(), "keys": set(), "values": set()}
    behind = set[ir.Node]()
    for node in symbolic(graph, ATTENTION):
        for found, value in zip(makers.values(), node.inputs, strict=False):
            found |= _products_before([value] if value is not None else [])
        behind |= _products_behind(node.outputs[0])
    return makers, behind


def _products_before(values: list[ir.Value]) -> set[ir.Node]:
    found, seen = set(), set[ir.Node]()
    while values:
        node = values.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type in _PRODUCTS:
            found.add(node)
        else:
            values += [value for value in node.inputs if value is not None]
    return found


def _products_behind(value: ir.Value) -> set[ir.Node]:
    """Behind a sum, which is where the answer meets the rest of the model, nobody looks."""
    found, values = set(), [value]
    while values:
        for node, _ in values.pop().uses():
            if node.op_type in _PRODUCTS:
                found.add(node)
            elif node.op_type != "Add":
                values += node.outputs
    return found


def _is_chosen_from(value: ir.Value) -> bool:
    """Whether the largest of these numbers are looked for, perhaps after they were made into shares."""
    for node, _ in value.uses():
        if node.op_type == "TopK":
            return True
        if node.op_type in _KEEPS_ORDER and _is_chosen_from(node.outputs[0]):
            return True
    return False


def _only_chooses(node: ir.Node, foldable: Container[ir.Value]) -> bool:
    """Whether all that is made of a product is a choice, as of what an indexer makes of queries and keys."""
    chooses, values, seen = False, list(node.outputs), set[ir.Node]()
    while values:
        for user, _ in values.pop().uses():
            if user.op_type == ATTENTION or (user.op_type in _PRODUCTS and user.inputs[1] in foldable):
                return False
            if user.op_type == "TopK":
                chooses = True
            elif user not in seen:
                seen.add(user)
                values += user.outputs
    return chooses


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
