"""Products of bytes, unsigned by signed, that are exact on any processor.

Processors of x86 without VNNI (AVX2 alone, and the first AVX-512) add two such products in 16 bits, which end at 32,767
where two may come to 64,770: ONNX Runtime's sums are wrong there, and nothing says so. By unsigned bytes it multiplies
in 16 bits, which is exact, and takes such a processor a sixth longer; one with VNNI would take two or three times as
long. So graphs have signed weights, and become unsigned where they are loaded, if need be.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

# y = MatMulInteger(a, b) of bytes, as the test of this file writes it: to write it here would take as long as to load
# a small model, as onnx is not imported to run one.
PRODUCT = (
    b'\x08\x04:>\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01gZ\t\n\x01a\x12\x04\n\x02\x08\x02'
    b"Z\t\n\x01b\x12\x04\n\x02\x08\x03b\t\n\x01y\x12\x04\n\x02\x08\x06B\x04\n\x00\x10\n"
)
_WIDTH = 8
_ZERO_POINT = {"MatMulInteger": 3, "MatMulIntegerToFloat": 5}  # of the weight: which input of these products it is
_ANY_PRODUCT = b"MatMulInteger"
_MIDDLE = "saturation.middle"


@cache
def saturates() -> bool:
    """The processor itself is asked, once: the largest bytes, multiplied. Two rows, as one alone goes another way."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    product = ort.InferenceSession(PRODUCT, options, providers=["CPUExecutionProvider"])
    feed = {"a": np.full((2, _WIDTH), 255, np.uint8), "b": np.full((_WIDTH, 2), 127, np.int8)}
    return bool((product.run(None, feed)[0] != _WIDTH * 255 * 127).any())


def multiplies_bytes(graph: bytes) -> bool:
    """Whether a graph, as it lies in its file, may have such products: their names stand there as they are."""
    return _ANY_PRODUCT in graph


def make_unsigned(graph: onnx.GraphProto) -> set[str]:
    """The same products by weights that are 128 more, around 128.

    Names of those whose contents are not in the graph: `unsigned` is what is to be given for them.
    """
    from onnx import TensorProto, numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    types = {value.name: value.type.tensor_type for value in graph.input}
    read = {name: said for name, said in types.items() if said.elem_type == TensorProto.INT8}
    products = [node for node in _all(graph) if node.op_type in _ZERO_POINT]
    weights, outside = {node.input[1] for node in products} & (stored.keys() | read.keys()), set()
    for node in products:
        if node.input[1] in weights:
            place = _ZERO_POINT[node.op_type]
            node.input.extend([""] * (place + 1 - len(node.input)))
            node.input[place] = _MIDDLE
    for name in weights:
        if name in read:
            read[name].elem_type = TensorProto.UINT8
            outside.add(name)
        elif stored[name].data_location == TensorProto.EXTERNAL:
            stored[name].data_type = TensorProto.UINT8
            outside.add(name)
        else:
            inside = unsigned(numpy_helper.to_array(stored[name]))
            stored[name].CopyFrom(numpy_helper.from_array(inside, name))
    if weights:
        graph.initializer.append(numpy_helper.from_array(np.array(128, np.uint8), _MIDDLE))
    return outside


def unsigned(weight: np.ndarray) -> np.ndarray:
    """Signed bytes -> unsigned ones, each 128 more: its first bit is the other one."""
    return np.bitwise_xor(weight.view(np.uint8), 128, dtype=np.uint8)


def _all(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _all(attribute.g)
