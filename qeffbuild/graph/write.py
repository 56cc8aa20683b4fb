"""A graph with references, and the weights behind them -> a graph with one data file, written in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from qeffbuild.errors import ModelError
from qeffbuild.graph.files import DOMAIN
from qeffbuild.graph.fold import compute, foldable_values, frontier, identity, remove_unread, sources
from qeffbuild.graph.weights import Weights

PAGE = 4096  # large tensors start on a page, so that they can be mapped
WRITTEN = "weights.data"  # of a graph that is handed out, where its reader could not read the checkpoint's own bytes
SMALL = 1024  # bytes below which a tensor stays inside the graph: shapes have to, for shape inference
_CHUNK = 1 << 22

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the file's size and digest, how many tensors are in it, and where each is by its identity."""

    size: int
    sha256: str
    tensors: int
    stored: Mapping[str, ir.TensorProtocol]


def write_weights(
    model: ir.Model,
    weights: Weights,
    data: Path,
    progress: Progress = lambda fraction, what: None,
    *,
    before: Mapping[str, ir.TensorProtocol] | None = None,
) -> Written:
    """Stores every tensor that the graph reads in `data` and points the graph at it.

    What was stored `before`, for another graph of the same folder, is not stored again.

    Whatever depends on weights alone is computed on the way (a float16 checkpoint is converted, a transpose is carried
    out), once per tensor however often it is used. Memory: the largest tensor.
    """
    graph = model.graph
    _check_all_in_reach(model)
    foldable = foldable_values(graph)
    wanted = [value for value in frontier(graph, foldable) if value.const_value is not None or sources(value)]
    stored: dict[str, ir.Value] = {}
    origins: dict[ir.Value, str] = {}
    replaced: list[tuple[ir.Value, ir.Value]] = []
    with data.open("wb") as file:
        output = DataFile(file)
        for done, value in enumerate(wanted):
            key = identity(value)
            if key not in stored:
                progress(done / len(wanted), value.name or "")
                name = value.name or f"weight_{done}"
                known = before.get(key) if before else None
                stored[key] = (
                    stored_value(name, compute(value, weights), output, data.name)
                    if known is None
                    else _same_value(name, known)
                )
                origins[stored[key]] = _origin(value)
            replaced.append((value, stored[key]))
        tensors = {key: value.const_value for key, value in stored.items() if value.const_value is not None}
        written = Written(output.position, output.digest.hexdigest(), output.tensors, tensors)
    # Only now: a tensor may be used as it is and transposed, too, and each is computed from the original.
    for old, new in replaced:
        _replace(graph, old, new)
    remove_unread(graph)
    if not any(node.domain == DOMAIN for node in graph):
        model.opset_imports.pop(DOMAIN, None)
    for value, origin in origins.items():
        if origin and origin not in graph.initializers:
            value.name = origin  # the name that the model's author gave it, now that the checkpoint's own is gone
    return written


class DataFile:
    """A file that knows its position and the digest of its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.position = 0
        self.tensors = 0
        self.digest = hashlib.sha256()

    def append(self, array: np.ndarray) -> tuple[int, int]:
        """Writes an array behind the others; its offset and length."""
        self._put(memoryview(bytes(-self.position % (PAGE if array.nbytes >= PAGE else 64))))
        offset = self.position
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for start in range(0, len(content), _CHUNK):
            self._put(content[start : start + _CHUNK])
        self.tensors += 1
        return offset, self.position - offset

    def _put(self, chunk: memoryview) -> None:
        self.file.write(chunk)
        self.digest.update(chunk)
        self.position += len(chunk)


def _origin(value: ir.Value) -> str:
    """The one stored tensor that a value is made from, by name."""
    names = {tensor.name for tensor in sources(value)}
    return names.pop() or "" if len(names) == 1 else ""


def _check_all_in_reach(model: ir.Model) -> None:
    """A reference that we would not rewrite would be followed later, by somebody who checks nothing."""
    inputs = set(model.graph.inputs)
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor) and (graph is not model.graph or value in inputs):
                raise ModelError(
                    "onnx.unsupported",
                    f"external data of {value.name} belongs to an inner graph or to an input",
                    hint="make it an initializer of the main graph",
                )


def stored_value(name: str, array: np.ndarray, output: DataFile, location: str) -> ir.Value:
    """A new initializer with the array's values: inside the graph if small, else in the data file."""
    dtype = ir.DataType.from_numpy(array.dtype.newbyteorder("="))
    shape = ir.Shape(array.shape)
    tensor: ir.TensorProtocol
    if array.nbytes < SMALL:
        tensor = ir.Tensor(np.array(array), dtype=dtype, name=name)
    else:
        offset, length = output.append(array)
        tensor = ir.ExternalTensor(location, offset, length, dtype, shape=shape, name=name)
    return ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)


def _same_value(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A new initializer over a tensor that another graph has, too."""
    return ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def _replace(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if old.is_initializer():
        del graph.initializers[old.name or ""]
    elif old.name == new.name:
        old.name = f"{old.name}.replaced"  # names are unique, and its maker goes with remove_unread
    if new.name not in graph.initializers:
        graph.initializers.add(new)
