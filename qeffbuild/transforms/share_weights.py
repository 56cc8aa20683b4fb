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

from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.weights import Weights, reference_of
from qeffbuild.transforms.subject import DATA, Subject

_BEGINNING = 4096  # bytes that tell most tensors of one shape apart
_CHUNK = 1 << 24


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    graph, weights = subject.graph, subject.weights
    assert weights is not None, "the plan hands over the checkpoint"
    shared: dict[str, list[str]] = {}
    spared = 0
    for group in _equal(_stored(graph), weights):
        first, *others = group
        for other in others:
            other.replace_all_uses_with(first)
        places = {reference_of(value.const_value): value for value in group}  # type: ignore[arg-type]
        spared += sum(reference.length for reference in list(places)[1:])
        shared[str(first.name)] = [str(other.name) for other in others]
    remove_unread(graph)
    subject.report |= {"shared": shared, "bytes": spared}


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
