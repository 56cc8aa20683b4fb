"""New nodes for a graph, written like calls: `emit("Add", a, b)` gives the value that the new node makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Input = ir.Value | np.ndarray | int | float | bool | Sequence[int] | None


class Emitter:
    """Collects nodes until `place` puts them before a node of the graph. Equal constants become one initializer."""

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix
        self._waiting: list[ir.Node] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._count = 0

    def __call__(self, op_type: str, *inputs: Input, domain: str = "", **attributes: Any) -> ir.Value:
        return self.several(op_type, 1, *inputs, domain=domain, **attributes)[0]

    def several(
        self, op_type: str, outputs: int, *inputs: Input, domain: str = "", **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """A node with more than one output. Numbers and arrays become constants; integers are int64."""
        values = [value if value is None or isinstance(value, ir.Value) else self.constant(value) for value in inputs]
        node = ir.node(op_type, values, attributes, domain=domain, num_outputs=outputs, name=self.name(op_type))
        for i, output in enumerate(node.outputs):
            output.name = f"{node.name}_{i}" if outputs > 1 else node.name
        self._waiting.append(node)
        return tuple(node.outputs)

    def constant(self, value: Any) -> ir.Value:
        array = np.asarray(value)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            tensor = ir.tensor(array, name=self.name("constant"))
            made = ir.Value(
                name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self.graph.initializers.add(made)
            self._constants[key] = made
        return self._constants[key]

    def add(self, node: ir.Node) -> None:
        """A node made elsewhere, in its turn."""
        self._waiting.append(node)

    def place(self, before: ir.Node) -> None:
        self.graph.insert_before(before, self.waiting())

    def has_made(self, value: ir.Value) -> bool:
        """Whether a node that waits makes the value."""
        return value.producer() in self._waiting

    def waiting(self) -> list[ir.Node]:
        """The nodes that are in no graph yet; the caller finds them a place."""
        nodes, self._waiting = self._waiting, []
        return nodes

    def name(self, kind: str) -> str:
        """One that this emitter has not given yet."""
        self._count += 1
        return f"{self.prefix}.{kind}.{self._count}"


def replace_value(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Everyone who read `old` reads `new`, which takes its name, shape and type; the old maker is left unread."""
    new.shape, new.type = old.shape, old.type
    name, old.name = old.name, f"{old.name}.replaced"
    new.name = name
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def detach(node: ir.Node) -> None:
    """A node that goes into no graph reads nothing any more."""
    for place in range(len(node.inputs)):
        node.replace_input_with(place, None)
