"""A part of a graph, run by ONNX Runtime: arrays in, arrays out.

Weights come in as inputs: they are mapped when the piece runs and given back with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from qeffbuild.graph.fold import sources
from qeffbuild.graph.saturation import make_unsigned, saturates, unsigned


@dataclass(frozen=True, slots=True)
class Piece:
    """Nodes in their order. `reads` are values that come from before, `weights` those that no run changes."""

    nodes: tuple[ir.Node, ...]
    reads: tuple[ir.Value, ...]
    weights: tuple[ir.Value, ...]


def read_by(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, its inner graphs' reads of the outer graph included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            inner = attribute.as_graph()
            own = {*inner.inputs, *inner.initializers.values(), *(out for each in inner for out in each.outputs)}
            yield from (value for each in inner for value in read_by(each) if value not in own)
            yield from (value for value in inner.outputs if value not in own)


def piece_of(nodes: Sequence[ir.Node], foldable: set[ir.Value]) -> Piece:
    made = {out for node in nodes for out in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in read_by(node) if value not in made)
    return Piece(
        tuple(nodes),
        tuple(value for value in read if value not in foldable),
        tuple(value for value in read if value in foldable),
    )


class Runner:
    """A piece, loaded. `constants` are the weights' contents; those that depend on no checkpoint become part of it."""

    def __init__(
        self, piece: Piece, wanted: Sequence[ir.Value], opsets: Mapping[str, int], constants: Mapping[str, np.ndarray],
        example: Mapping[str, np.ndarray],
    ) -> None:  # fmt: skip
        import onnxruntime as ort

        inside = [value for value in piece.weights if not sources(value)]
        fed = {name: constants[name] for name in names(piece.weights) if name not in set(names(inside))}
        graph = onnx.GraphProto(name="piece")
        graph.node.extend(ir.serde.serialize_node(node) for node in piece.nodes)
        graph.initializer.extend(onnx.numpy_helper.from_array(constants[name], name) for name in names(inside))
        for name, array in {**example, **fed}.items():
            dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            shape = array.shape if name in fed else [None] * array.ndim
            graph.input.append(onnx.helper.make_tensor_value_info(name, dtype, shape))
        graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in wanted)
        self._unsigned = make_unsigned(graph) if saturates() else set[str]()
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._wanted = names(wanted)
        self._inputs = {said.name for said in self._session.get_inputs()}

    def __call__(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given: dict[str, Any] = {name: array for name, array in feed.items() if name in self._inputs}
        given |= {name: unsigned(given[name]) for name in self._unsigned}
        return dict(zip(self._wanted, self._session.run(self._wanted, given), strict=True))


def names(values: Sequence[ir.Value]) -> list[str]:
    return [value.name or "" for value in values]
