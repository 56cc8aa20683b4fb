"""LoRA adapters beside the products that they change, in one of two forms.

stacked: every adapter is in the graph, [number + 1, ...] with zeros first; the input `lora_ids` [batch, 1] says for
each row which one answers, 0 being the model alone. Adapters may differ in rank and in the modules that they change.
inputs: the matrices of one adapter are inputs under PEFT's own names, retained from run to run; a runtime feeds those
of another adapter to change over. Adapters must agree in modules, ranks and scales.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from safetensors.numpy import save_file

from qeffbuild.errors import ModelError
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.fold import sources
from qeffbuild.graph.products import Product, products
from qeffbuild.models.adapters import PREFIX, Pair, find, misfit, read_adapter
from qeffbuild.signature import State, Tensor
from qeffbuild.transforms.subject import Subject

LORA_IDS = "lora_ids"
FILE = "adapters.json"
FOLDER = "adapters"

Adapters = Mapping[str, Mapping[str, Pair]]


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    names: list[str] = said["adapters"]
    adapters = {name: read_adapter(subject.leaves[f"adapter.{name}"]) for name in names}
    found = _find(subject.graph, adapters)
    if said["form"] == "inputs":
        _check_alike(adapters)
        _as_inputs(subject, adapters[names[0]], found)
    else:
        _as_stacks(subject, adapters, found)
    _leave(subject, said, adapters)
    subject.report |= {"modules": len(found)}


def _find(graph: ir.Graph, adapters: Adapters) -> dict[str, Product]:
    """The product that each module makes; an adapter of another model has modules or sizes that are not there."""
    by_weight: dict[str, Product] = {}
    several: set[str] = set()
    for product in products(graph):
        tensors = sources(product.weight)
        if len(tensors) == 1:
            name = str(tensors[0].name)
            several |= {name} & by_weight.keys()
            by_weight[name] = product
    found: dict[str, Product] = {}
    for name, adapter in adapters.items():
        for module, pair in adapter.items():
            weight = find(by_weight, f"{module}.weight")
            if weight is None:
                raise misfit(name, f"the model has no linear layer {module}")
            if weight in several:
                raise misfit(name, f"several products of the model share the weight of {module}")
            found[module] = by_weight[weight]
            (tensor,) = sources(found[module].weight)
            if tuple(tensor.shape.numpy()) not in (pair.sizes, pair.sizes[::-1]):
                raise misfit(name, f"{module} is {list(pair.sizes)} there, here {list(tensor.shape.numpy())}")
    return found


def _check_alike(adapters: Adapters) -> None:
    said = {
        name: {module: (pair.rank, pair.sizes, pair.scale) for module, pair in adapter.items()}
        for name, adapter in adapters.items()
    }
    first, *others = said
    for name in others:
        if said[name] != said[first]:
            raise ModelError(
                "model.adapter",
                f"adapter {name}: its modules, ranks or scales are not those of {first}, whose place it would take",
                hint="transforms.lora=stacked takes adapters that differ",
            )


def _as_inputs(subject: Subject, adapter: Mapping[str, Pair], found: Mapping[str, Product]) -> None:
    emit = Emitter(subject.graph, "lora")
    states = []
    for module, pair in adapter.items():
        product, dtype = found[module], _dtype(found[module])
        turned = []
        for letter, array in zip("AB", pair.values(), strict=True):
            name = f"{PREFIX}{module}.lora_{letter}.weight"
            given = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype))
            subject.graph.inputs.append(given)
            kept = emit("Identity", given)
            kept.name, kept.shape, kept.type = f"{name}_RetainedState", given.shape, given.type
            subject.graph.outputs.append(kept)
            turned.append(emit("Transpose", given, perm=[1, 0]))
            states.append(_state(name, array, module, dtype))
        change = emit("MatMul", emit("MatMul", product.x, turned[0]), turned[1])
        _add(subject, emit, product, emit("Mul", change, np.array(pair.scale, dtype.numpy())))
    subject.signature = subject.signature.with_states((*subject.signature.states, *states))


def _dtype(product: Product) -> ir.DataType:
    """What a product computes in."""
    return product.x.dtype or ir.DataType.FLOAT


def _state(name: str, array: np.ndarray, module: str, dtype: ir.DataType) -> State:
    numbers = re.findall(r"(?:^|\.)(\d+)(?=\.)", module)
    return State(
        name=name,
        output=f"{name}_RetainedState",
        dtype=str(dtype.numpy()),
        axes=tuple(array.shape),
        layer=int(numbers[0]) if numbers else 0,
        kind="adapter",
        positional=False,
    )


def _as_stacks(subject: Subject, adapters: Adapters, found: Mapping[str, Product]) -> None:
    graph, emit = subject.graph, Emitter(subject.graph, "lora")
    chosen = ir.Value(name=LORA_IDS, shape=ir.Shape(("batch_size", 1)), type=ir.TensorType(ir.DataType.INT64))
    graph.inputs.append(chosen)
    row = emit("Squeeze", chosen, [1])
    batch = emit("Shape", chosen, start=0, end=1)
    emit.place(graph[0])
    for module, product in found.items():
        a, b = _stacks(module, adapters)
        kind = _dtype(product).numpy()
        stacks = [subject.store(f"{module}.lora_{at}", array.astype(kind)) for at, array in (("A", a), ("B", b))]
        x = product.x
        is_flat = x.shape is not None and len(x.shape) == 2  # the rows of all texts one after another
        if is_flat:
            x = emit("Reshape", x, emit("Concat", batch, [-1, a.shape[1]], axis=0))
        change = x
        for stack in stacks:
            change = emit("MatMul", change, emit("Gather", stack, row, axis=0))
        _add(subject, emit, product, emit("Reshape", change, [-1, b.shape[2]]) if is_flat else change)
    ids = Tensor(name=LORA_IDS, dtype="int64", axes=("batch_size", 1))
    subject.signature = subject.signature.with_inputs((*subject.signature.inputs, ids))


def _stacks(module: str, adapters: Adapters) -> tuple[np.ndarray, np.ndarray]:
    """[number + 1, in, rank] and [number + 1, rank, out] of one module; scales are in the second."""
    present = [adapter[module] for adapter in adapters.values() if module in adapter]
    rank, (outputs, inputs) = max(pair.rank for pair in present), present[0].sizes
    a = np.zeros((len(adapters) + 1, inputs, rank), np.float32)
    b = np.zeros((len(adapters) + 1, rank, outputs), np.float32)
    for number, adapter in enumerate(adapters.values(), start=1):
        if (pair := adapter.get(module)) is not None:
            down, up = pair.values()
            a[number, :, : pair.rank] = down.T
            b[number, : pair.rank] = up.T * np.float32(pair.scale)
    return a, b


def _add(subject: Subject, emit: Emitter, product: Product, change: ir.Value) -> None:
    """Whoever read the product reads its sum with `change`."""
    plain = product.node.outputs[0]
    total = emit("Add", plain, change)
    total.shape, total.type = plain.shape, plain.type
    maker = total.producer()
    assert maker is not None
    if plain.is_graph_output():
        total.name, plain.name = plain.name, f"{plain.name}.plain"
    plain.replace_all_uses_with(total, replace_graph_outputs=True)
    maker.replace_input_with(0, plain)
    subject.graph.insert_after(product.node, emit.waiting())


def _leave(subject: Subject, said: Mapping[str, Any], adapters: Adapters) -> None:
    """What a package has to know: the names in their order, and where weights are inputs, the weights."""
    left: dict[str, Any] = {"schema": 1, "form": said["form"], "names": list(adapters)}
    if said["form"] == "inputs":
        (subject.out / FOLDER).mkdir()
        for name, adapter in adapters.items():
            tensors = {}
            for module, pair in adapter.items():
                for letter, array in zip("AB", pair.values(), strict=True):
                    tensors[f"{PREFIX}{module}.lora_{letter}.weight"] = array
            save_file(tensors, subject.out / FOLDER / f"{name}.safetensors")
    (subject.out / FILE).write_text(json.dumps(left, indent=1) + "\n")
