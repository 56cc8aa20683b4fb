"""Finished graphs -> their files: the bytes that onnx_ir gives, in half the time.

A graph of many layers says few things many times: names, attributes, types and shapes become bytes once for all that
share them, and a node is put together from these without a message of its own. `finish` left neither texts nor
metadata, so there are no fields for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from qeffbuild.graphs import place
from qeffbuild.signature import IoSignature

# The key of a field is its number and how long it is: 2, its length follows; 0, it is a number itself.
_TEXT = [bytes([number << 3 | 2]) for number in range(16)]
_NUMBER = [bytes([number << 3]) for number in range(16)]
_SHORT = [bytes([number]) for number in range(128)]


def write(model: ir.Model, path: Path) -> None:
    """Write the graph and its references; no weight is read."""
    path.write_bytes(to_bytes(model))


def write_all(graphs: Iterable[tuple[ir.Model, IoSignature]], report: Mapping[str, Any], out: Path) -> None:
    """Write graphs, the main one first, their signatures, and export.json."""
    for number, (model, signature) in enumerate(graphs):
        write(model, place(out, signature, is_main=number == 0).graph)
    (out / "export.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


def to_bytes(model: ir.Model) -> bytes:
    """The same as `onnx_ir.to_proto(model).SerializeToString()`."""
    assert not model.functions
    head = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    imports = sorted(model.opset_imports.items())
    tail = onnx.ModelProto(opset_import=[onnx.OperatorSetIdProto(domain=d, version=v) for d, v in imports])
    graph = _Graph().content(model.graph)
    return b"".join((head.SerializeToString(), _TEXT[7], _varint(len(graph)), graph, tail.SerializeToString()))


class _Names(dict[str | None, bytes]):
    """A name is said by who makes a value, by who reads it, and where its type is told."""

    def __missing__(self, name: str | None) -> bytes:
        content = (name or "").encode()
        made = self[name] = _varint(len(content)) + content
        return made


class _Graph:
    """What became bytes once is known by its name, or by the object that it was."""

    def __init__(self) -> None:
        self.name = _Names().__getitem__
        self.attributes: dict[int, bytes] = {}
        self.types: dict[tuple[int, int], bytes] = {}

    def content(self, graph: ir.Graph) -> bytes:
        nodes = list(graph)
        tensors = [value for value in graph.initializers.values() if value.const_value is not None]
        inner = [value for node in nodes for value in node.outputs if not value.is_graph_output()]
        told = [value for value in (*graph.initializers.values(), *inner) if _is_known(value)]
        name = () if not graph.name else (_TEXT[2], self.name(graph.name))
        fields = [
            *_all(_TEXT[1], map(self.node, nodes)),
            *name,
            *_all(_TEXT[5], map(_tensor, tensors)),
            *_all(_TEXT[11], map(self.value, graph.inputs)),
            *_all(_TEXT[12], map(self.value, graph.outputs)),
            *_all(_TEXT[13], map(self.value, told)),
        ]
        return b"".join(fields)

    def node(self, node: ir.Node) -> bytes:
        name = self.name
        parts = [b"\x0a" + name(None if value is None else value.name) for value in node.inputs]
        parts += [b"\x12" + name(value.name) for value in node.outputs]
        parts += (_TEXT[3], name(node.name), _TEXT[4], name(node.op_type))
        parts += [self.attribute(attribute) for attribute in node.attributes.values()]
        if node.domain:
            parts += (_TEXT[7], name(node.domain))
        return b"".join(parts)

    def attribute(self, attribute: ir.Attr) -> bytes:
        made = self.attributes.get(id(attribute))
        if made is None:
            content = ir.serde.serialize_attribute(attribute).SerializeToString()
            made = self.attributes[id(attribute)] = b"".join((_TEXT[5], _varint(len(content)), content))
        return made

    def value(self, value: ir.Value) -> bytes:
        key = id(value.type), id(value.shape)
        made = self.types.get(key)
        if made is None:
            described = ir.serde.serialize_value(value)
            described.ClearField("name")
            made = self.types[key] = described.SerializeToString()
        return b"\x0a" + self.name(value.name) + made


def _is_known(value: ir.Value) -> bool:
    return value.type is not None or value.shape is not None


def _tensor(value: ir.Value) -> bytes:
    """Nearly all are references into the checkpoint."""
    tensor = value.const_value
    assert tensor is not None
    tensor.name = value.name
    if not isinstance(tensor, ir.ExternalTensor):
        return ir.serde.serialize_tensor(tensor).SerializeToString()
    parts = [part for size in tensor.shape.numpy() for part in (_NUMBER[1], _varint(size))]
    parts += (_NUMBER[2], _varint(tensor.dtype.value), *_all(_TEXT[8], [(tensor.name or "").encode()]))
    said = {"location": os.fspath(tensor.location), "offset": str(tensor.offset), "length": str(tensor.length)}
    pairs = [b"".join((*_all(_TEXT[1], [key.encode()]), *_all(_TEXT[2], [said[key].encode()]))) for key in said]
    parts += (*_all(_TEXT[13], pairs), _NUMBER[14], _varint(onnx.TensorProto.EXTERNAL))
    return b"".join(parts)


def _all(key: bytes, contents: Iterable[bytes]) -> Iterable[bytes]:
    for content in contents:
        yield key
        yield _varint(len(content))
        yield content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last byte say that more follow."""
    if number < 128:
        return _SHORT[number]
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)
