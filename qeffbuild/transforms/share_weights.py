"""Tensors of the checkpoint with equal bytes become one: a head that is the table of words again, layers that repeat.

Only what is named is read, tensor by tensor: those that agree in dtype and shape, and of them those that begin alike.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.weights import Weights, reference_of
from qeffbuild.transforms.subject import DATA, Subject

_BEGINNING = 4096  # bytes that tell most tensors of one shape apart
_CHUNK = 1 << 24


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    weights = subject.weights
    assert weights is not None, "the plan hands over the checkpoint"
    shared: dict[str, list[str]] = {}
    spared = 0
    for group in _equal(_stored(subject.graph), weights):
        first, *others = group
        places = {reference_of(value.const_value) for value in group}  # type: ignore[arg-type]
        spared += (len(places) - 1) * next(iter(places)).length
        for other in others:
            other.const_value = _same_bytes(first, other)
        shared[str(first.name)] = [str(other.name) for other in others]
    subject.report |= {"shared": shared, "bytes": spared}


def _same_bytes(first: ir.Value, other: ir.Value) -> ir.ExternalTensor:
    """The first one's place in the checkpoint. The name stays, by which a weight is known to be a layer's."""
    tensor, said = first.const_value, other.const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert said is not None
    reference = reference_of(tensor)
    return ir.ExternalTensor(*reference, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=str(said.name))


def _stored(graph: ir.Graph) -> list[ir.Value]:
    return [
        value
        for value in graph.initializers.values()
        if isinstance(tensor := value.const_value, ir.ExternalTensor) and tensor.location != DATA and value.uses()
    ]


def _equal(values: list[ir.Value], weights: Weights) -> Iterator[list[ir.Value]]:
    """Those that are equal, in the graph's order."""
    for alike in _by(lambda value: (value.dtype, tuple(value.const_value.shape.numpy())), values):  # type: ignore[union-attr]
        for begun in _by(lambda value: _digest(value, weights, _BEGINNING), alike):
            yield from _by(lambda value: _digest(value, weights), begun)


def _by(key: Callable[[ir.Value], Hashable], values: Iterable[ir.Value]) -> list[list[ir.Value]]:
    """Values with one key, where there are several."""
    groups: defaultdict[Hashable, list[ir.Value]] = defaultdict(list)
    for value in values:
        groups[key(value)].append(value)
    return [group for group in groups.values() if len(group) > 1]


def _digest(value: ir.Value, weights: Weights, most: int | None = None) -> bytes:
    assert value.const_value is not None
    content = weights.array(value.const_value).reshape(-1).view(np.uint8)[:most]
    found = hashlib.sha256()
    for start in range(0, len(content), _CHUNK):
        found.update(content[start : start + _CHUNK].data)
    return found.digest()
