"""Parameters of a model -> the checkpoint's own bytes, by reference: no weight is read while exporting.

transformers renames keys when it loads a checkpoint, drops or adds the base model's prefix, ties parameters, and merges
per-expert tensors; the same rules are applied here to names and shapes alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from qeffbuild.errors import ModelError
from qeffbuild.export.conversions import Recorder
from qeffbuild.export.ops import DOMAIN
from qeffbuild.export.transformers_patches import (
    WeightConverter,
    WeightRenaming,
    conversion_mapping,
    dot_natural_key,
    rename_source_key,
)

FLOATS = {
    "float64": ir.DataType.DOUBLE,
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}
PLAIN = {**FLOATS, "int64": ir.DataType.INT64}  # tables of numbers, such as a token's experts
PACKED = {  # what only parts of encoded weights are stored as
    "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8,
    "int32": ir.DataType.INT32,
    "int64": ir.DataType.INT64,
    "float8_e4m3fn": ir.DataType.FLOAT8E4M3FN,
    "float8_e5m2": ir.DataType.FLOAT8E5M2,
    "float8_e8m0fnu": ir.DataType.FLOAT8E8M0,
}
PREFIX = "model."  # of the decoder that wraps the model


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One tensor of the checkpoint, as facts.json describes it."""

    name: str
    file: str
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    encoding: Encoding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a weight of a quantized checkpoint is made of other stored tensors, as graph/decode.py reads it."""

    format: str
    parts: Mapping[str, Stored]
    options: Mapping[str, Any]


@dataclass(slots=True)
class Sources:
    """Which stored tensors each parameter is made of, and how where it is more than a renaming."""

    direct: dict[str, Stored] = field(default_factory=dict)
    converted: dict[str, tuple[Any, list[Stored]]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.direct or name in self.converted


def stored_tensors(facts: Mapping[str, Any]) -> dict[str, Stored]:
    """The tensor table of facts.json, with encoded weights by their own names in place of what they are made of."""
    raw, encodings = _raw(facts["tensors"]), facts.get("encodings", {})
    used = {part for said in encodings.values() for part in said["parts"].values()}
    stored = {name: tensor for name, tensor in raw.items() if name not in used}
    for name, said in encodings.items():
        parts = {role: raw[part] for role, part in said["parts"].items()}
        encoding = Encoding(format=said["format"], parts=parts, options=said["options"])
        shape = tuple(said["shape"])
        stored[name] = Stored(name=name, file="", offset=0, nbytes=0, dtype="float32", shape=shape, encoding=encoding)
    return stored


def _raw(said: Mapping[str, Mapping[str, Any]]) -> dict[str, Stored]:
    return {
        name: Stored(
            name=name,
            file=item["file"],
            offset=item["offset"],
            nbytes=item["nbytes"],
            dtype=item["dtype"],
            shape=tuple(item["shape"]),
        )
        for name, item in said.items()
    }


def find_sources(model: Any, stored: Mapping[str, Stored]) -> Sources:
    """Apply transformers' loading rules for this model to the checkpoint's names."""
    rules = conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    wanted = model.state_dict()
    groups: dict[str, tuple[Any, list[tuple[str, Stored]]]] = {}
    sources = Sources()
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, wanted)
        if target not in wanted and name in wanted:
            target, pattern = rename_source_key(name, [], [], model.base_model_prefix, wanted)
        if target not in wanted:
            continue
        if pattern is None:
            sources.direct[target] = stored[name]
            continue
        rule, parts = groups.setdefault(target, (copy.deepcopy(by_pattern[pattern]), []))
        parts.append((pattern, stored[name]))
    for target, (rule, parts) in groups.items():
        _convert(model, target, rule, parts, sources)
    return sources


def _convert(model: Any, target: str, rule: Any, parts: list[tuple[str, Stored]], sources: Sources) -> None:
    """Run the converter on tensors without data, and keep what it did to them for the parameters it gives."""
    recorder = Recorder()
    for pattern, tensor in parts:
        rule.add_tensor(target, tensor.name, pattern, recorder.placeholder(tensor.name, tensor.shape))
    with recorder:
        made = rule.convert(target, model=model, config=model.config)
    for name, value in made.items():
        value = value[0] if isinstance(value, list) else value
        sources.converted[name] = (recorder.recipe_of(value), [tensor for _, tensor in parts])


def aliases(model: nn.Module) -> dict[str, list[str]]:
    """Each parameter's name -> every name of the same parameter (tied weights), in the model's order."""
    by_identity: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_identity.setdefault(id(parameter), []).append(name)
    return {name: names for names in by_identity.values() for name in names}


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """The shape of each parameter, under each of its names."""
    return {name: parameter.shape for name, parameter in model.named_parameters(remove_duplicate=False)}


def take_in_buffers(model: nn.Module, sources: Sources) -> None:
    """What a checkpoint stores is a weight, also where its module calls it a buffer: the bias of a router, say."""
    for name, buffer in list(model.named_buffers()):
        if name in sources:
            owner, _, attribute = name.rpartition(".")
            module = model.get_submodule(owner)
            del module._buffers[attribute]
            module._parameters[attribute] = nn.Parameter(buffer.to("meta"), requires_grad=False)


def untie(model: nn.Module, sources: Sources) -> None:
    """Parameters that the configuration ties but the checkpoint stores apart are two, as transformers loads them."""
    for name, names in aliases(model).items():
        present = [other for other in names if other in sources]
        if name in present[1:] and sources.direct.get(name) != sources.direct.get(present[0]):
            owner, _, attribute = name.rpartition(".")
            parameter = model.get_parameter(name)
            module = model.get_submodule(owner)
            module._parameters[attribute] = nn.Parameter(torch.empty_like(parameter), requires_grad=False)


def refer(graph: ir.Graph, sources: Sources, names: Mapping[str, list[str]], shapes: Mapping[str, torch.Size]) -> None:
    """Replace each parameter of the graph by external data inside the checkpoint, cast where it has another dtype."""
    binder = _Binder(graph=graph, sources=sources, names=names, shapes=shapes)
    for value in [value for name, value in graph.initializers.items() if name.removeprefix(PREFIX) in names]:
        binder.bind(value)
    if binder.missing:
        more = f" and {len(binder.missing) - 1} more" if len(binder.missing) > 1 else ""
        raise ModelError(
            "model.weights",
            f"the checkpoint has no tensor for {binder.missing[0]}{more}",
            hint="the weights do not belong to this config.json, or a shard is missing",
        )
    if binder.before:
        graph.insert_before(next(iter(graph)), binder.before)


@dataclass(slots=True, kw_only=True)
class _Binder:
    graph: ir.Graph
    sources: Sources
    names: Mapping[str, list[str]]
    shapes: Mapping[str, torch.Size]
    missing: list[str] = field(default_factory=list)
    before: list[ir.Node] = field(default_factory=list)
    stored: dict[str, ir.Value] = field(default_factory=dict)
    ready: dict[tuple[str, ir.DataType], ir.Value] = field(default_factory=dict)

    def bind(self, value: ir.Value) -> None:
        assert value.name is not None
        name = value.name.removeprefix(PREFIX)
        source = next((other for other in self.names[name] if other in self.sources), None)
        if source is None:
            self.missing.append(name)
            return
        wanted = value.dtype or ir.DataType.FLOAT
        if (source, wanted) not in self.ready:
            made = self._made(source)
            self.ready[source, wanted] = made if made.dtype == wanted else self._cast(made, wanted)
        value.replace_all_uses_with(self.ready[source, wanted])
        del self.graph.initializers[value.name]

    def _made(self, source: str) -> ir.Value:
        if source in self.sources.direct:
            tensor = self.sources.direct[source]
            made = self._stored(tensor)
            shape: tuple[int, ...] = tensor.shape
            where = f"tensor {tensor.name} of {tensor.file}"
        else:
            recipe, parts = self.sources.converted[source]
            made = recipe({tensor.name: self._stored(tensor) for tensor in parts}, self.before)
            assert made.shape is not None
            shape = tuple(int(size) for size in made.shape if isinstance(size, int))
            where = f"{parts[0].name} and {len(parts) - 1} more of {parts[0].file}"
        wanted = tuple(self.shapes[source])
        if shape != wanted:
            raise ModelError(
                "model.weights",
                f"{where}: shape {list(shape)}, but the configuration asks for {list(wanted)}",
                hint="the weights do not belong to this config.json",
            )
        return made

    def _stored(self, tensor: Stored) -> ir.Value:
        if tensor.name not in self.stored and tensor.encoding is not None:
            self.stored[tensor.name] = self._decoded(tensor, tensor.encoding)
        if tensor.name not in self.stored:
            self.stored[tensor.name] = self._referred(tensor, PLAIN)
        return self.stored[tensor.name]

    def _referred(self, tensor: Stored, dtypes: Mapping[str, ir.DataType]) -> ir.Value:
        value = _external(tensor, dtypes)
        self.graph.initializers[tensor.name] = value
        return value

    def _decoded(self, tensor: Stored, encoding: Encoding) -> ir.Value:
        """A node that stands for the decoded weight; it is computed where weights are written."""
        parts = [self._referred(part, {**FLOATS, **PACKED}) for part in encoding.parts.values()]
        said: dict[str, Any] = {
            "format": encoding.format,
            "roles": list(encoding.parts),
            "options": json.dumps(encoding.options, sort_keys=True),
            "shape": list(tensor.shape),
        }
        node = ir.node("Decode", parts, said, domain=DOMAIN)
        made = node.outputs[0]
        made.name, made.shape, made.type = tensor.name, ir.Shape(tensor.shape), ir.TensorType(ir.DataType.FLOAT)
        self.before.append(node)
        return made

    def _cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        node = ir.node("Cast", [value], {"to": int(wanted)})
        node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(wanted)
        self.before.append(node)
        return node.outputs[0]


def _external(tensor: Stored, dtypes: Mapping[str, ir.DataType]) -> ir.Value:
    dtype = dtypes.get(tensor.dtype)
    if dtype is None:
        raise ModelError(
            "model.weights",
            f"tensor {tensor.name} of {tensor.file}: stored as {tensor.dtype}, which is no plain weight",
            hint="export from the unquantized checkpoint",
        )
    shape = ir.Shape(tensor.shape)
    data = ir.ExternalTensor(tensor.file, tensor.offset, tensor.nbytes, dtype, shape=shape, name=tensor.name)
    return ir.Value(name=tensor.name, shape=shape, type=ir.TensorType(dtype), const_value=data)
