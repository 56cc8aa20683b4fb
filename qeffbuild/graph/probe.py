"""What a part of a graph does, found by running it on chosen inputs: masks and rotations have too many spellings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

Inputs = Mapping[ir.Value, np.ndarray]


class Ancestry:
    """Which inputs of the graph a value depends on; every answer is kept."""

    def __init__(self, graph: ir.Graph) -> None:
        self.order = {node: place for place, node in enumerate(graph)}
        self._known: dict[ir.Value, frozenset[ir.Value] | None] = {}
        for node in graph:
            self._learn(node)

    def inputs_of(self, value: ir.Value) -> frozenset[ir.Value] | None:
        """The inputs whose contents are read on the way to `value`; None where weights of the checkpoint are."""
        if value not in self._known:
            node = value.producer()
            if node is not None:
                self._learn(node)
            elif value.const_value is not None:
                self._known[value] = None if isinstance(value.const_value, ir.ExternalTensor) else frozenset()
            else:
                self._known[value] = frozenset([value])
        return self._known[value]

    def _learn(self, node: ir.Node) -> None:
        found: frozenset[ir.Value] | None = frozenset()
        if node.op_type != "Shape":  # a shape is known without any content
            for value in node.inputs:
                above = self.inputs_of(value) if value is not None else frozenset()
                found = None if above is None or found is None else found | above
        for output in node.outputs:
            self._known[output] = found


def evaluate(wanted: Sequence[ir.Value], given: Inputs, opset: int) -> list[np.ndarray]:
    """The contents of `wanted` when `given` have these. Whatever lies between is run by ONNX's own reference."""
    nodes, constants = _between(wanted, given)
    graph = onnx.helper.make_graph(
        [ir.serde.serialize_node(node) for node in nodes],
        "probe",
        [_info(value, array) for value, array in given.items()],
        [onnx.ValueInfoProto(name=value.name) for value in wanted],
        [_tensor(value) for value in constants],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    found = ReferenceEvaluator(model).run(None, {value.name or "": array for value, array in given.items()})
    return list(found)


def _between(wanted: Sequence[ir.Value], given: Inputs) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes between two sets of values, in order, and the constants that they read."""
    nodes: dict[ir.Node, None] = {}
    constants: dict[ir.Value, None] = {}

    def visit(value: ir.Value) -> None:
        node = value.producer()
        if value in given or value in constants or node in nodes:
            return
        if node is None:
            assert value.const_value is not None, f"{value.name} is not given"
            constants[value] = None
            return
        for above in node.inputs:
            if above is not None:
                visit(above)
        nodes[node] = None

    for value in wanted:
        visit(value)
    return list(nodes), list(constants)


def _info(value: ir.Value, array: np.ndarray) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(
        value.name or "", onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
    )


def _tensor(value: ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    return onnx.numpy_helper.from_array(value.const_value.numpy(), value.name)
