"""Neutral graph -> the same graph with products of 8-bit integers: a scale for each token and for each output.

ONNX Runtime multiplies whole matrices of integers about twice as fast as it does blocks of weights, so this is the form
for prompts. The new weights lie beside the graph in rowwise.data. What is wrong with keys and values stays in the
cache, and with the answers of attention it is wrong for every token alike: `values=finer` has their weights in 16 bits,
as two numbers of 8, which are two products; and where values alone are made, what rounding left over of the inputs is
a third.
"""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.executor.work import Work
from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.fold import compute, identity, remove_unread, sources
from qeffbuild.graph.products import Product, products
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder, reference_of
from qeffbuild.graph.write import DataFile, stored_value
from qeffbuild.graphs import members

DATA = "rowwise.data"
_STEPS = 127
_MIDDLE = np.array(128, np.uint8)
_ONE = np.array(1, np.float32)
_SMALLEST = np.array(1e-9, np.float32)


def run(work: Work) -> None:
    main = members(work.inputs["graph"])[0]
    model = load_graph(main.graph)
    weights = Weights(Folder(work.inputs["graph"]), checkpoint_folder(work.inputs["model"], work.leaves.get("model")))
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    names = {(said["file"], said["offset"]): name for name, said in facts["tensors"].items()}
    with (work.out / DATA).open("wb") as file:
        rewriting = _Rowwise(model, weights, DataFile(file), finer=work.params["values"] == "finer")
        done = rewriting.carry_out(work, names)
    save_graph(model, work.out / main.file)
    shutil.copyfile(main.io, work.out / main.io.name)
    (work.out / "rowwise.json").write_text(json.dumps({"schema": 1, **done}, indent=1, sort_keys=True) + "\n")


class _Rowwise:
    """One graph being rewritten, a product at a time: never more than one weight is in memory.

    With `finer`, weights of keys, of values and of what attention answers are two numbers each.
    """

    def __init__(self, model: ir.Model, weights: Weights, output: DataFile, *, finer: bool) -> None:
        self.graph, self.weights, self.output, self.finer = model.graph, weights, output, finer
        self.emit = Emitter(model.graph, "rowwise")
        self.inputs: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self.rests: dict[ir.Value, ir.Value] = {}
        self.made: dict[str, list[tuple[ir.Value, ...]]] = {}
        model.opset_imports["com.microsoft"] = 1

    def carry_out(self, work: Work, names: dict[tuple[str, int], str]) -> dict[str, Any]:
        found, quantized, kept = list(products(self.graph)), list[str](), dict[str, str]()
        for place, product in enumerate(found):
            references = [reference_of(tensor) for tensor in sources(product.weight)]
            name = names.get((references[0].location, references[0].offset), product.weight.name or "")
            work.progress(place / len(found), name)
            if any(fnmatchcase(name, pattern) for pattern in work.params["keep"]):
                kept[name] = "keep"
            elif product.is_router:
                kept[name] = "it chooses experts or tokens: a small error would choose others"
            elif product.weight.shape is not None and len(product.weight.shape) != 2:
                kept[name] = "only plain matrices are quantized"
            else:
                self._one(product, name)
                quantized.append(name)
        remove_unread(self.graph)
        return {"quantized": quantized, "kept": kept}

    def _one(self, product: Product, name: str) -> None:
        key = f"{identity(product.weight)} {product.is_transposed} {product.makes_logits}"
        if key not in self.made:
            self.made[key] = self._store(f"{name}.rowwise.{len(self.made)}", product)
        times = self._times_of_one_token if product.makes_logits else self._times
        result = times(product.x, self.made[key])
        if self.finer and product.makes == {"values"}:
            result = self.emit("Add", result, self._times(self._rest(product.x), self.made[key][:1]))
        if product.bias is not None:
            result = self.emit("Add", result, product.bias)
        replace_value(self.graph, product.node.outputs[0], result)
        self.emit.place(product.node)

    def _times(self, x: ir.Value, weight: list[tuple[ir.Value, ...]]) -> ir.Value:
        rounded, sizes = self._rounded(x)
        parts = [
            self.emit("MatMulIntegerToFloat", rounded, numbers, _ONE, scales, _MIDDLE, domain="com.microsoft")
            for numbers, scales, *_ in weight
        ]
        return self.emit("Mul", parts[0] if len(parts) == 1 else self.emit("Add", *parts), sizes)

    def _times_of_one_token(self, x: ir.Value, weight: list[tuple[ir.Value, ...]]) -> ir.Value:
        """The same from the same integers; without a middle, one token reads weights as they lie, twice as fast.

        128 too much in each number of x is 128 times the sum of its weights too much in a result: `sums`.
        """
        rounded, sizes = self._rounded(x)
        ((numbers, scales, sums),) = weight
        whole = self.emit("Sub", self.emit("MatMulInteger", rounded, numbers), sums)
        return self.emit("Mul", self.emit("Mul", self.emit("Cast", whole, to=int(ir.DataType.FLOAT)), scales), sizes)

    def _rest(self, x: ir.Value) -> ir.Value:
        """What rounding leaves over of x."""
        if x not in self.rests:
            rounded, sizes = self._rounded(x)
            numbers = self.emit("DequantizeLinear", rounded, _ONE, _MIDDLE)
            self.rests[x] = self.emit("Sub", x, self.emit("Mul", numbers, sizes))
        return self.rests[x]

    def _rounded(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """x in 8 bits around 128, and the size of a step in each row; products of one input share them."""
        if x not in self.inputs:
            emit = self.emit
            largest = emit("Max", emit("ReduceMax", emit("Abs", x), [-1], keepdims=1), _SMALLEST)
            sizes = emit("Mul", largest, np.array(1 / _STEPS, np.float32))
            self.inputs[x] = (emit("QuantizeLinear", emit("Div", x, sizes), _ONE, _MIDDLE), sizes)
        return self.inputs[x]

    def _store(self, name: str, product: Product) -> list[tuple[ir.Value, ...]]:
        """Weights [K, N] in 8 bits, and a scale for each of the N outputs; those of what is left over, or sums, too."""
        weight = np.asarray(compute(product.weight, self.weights), np.float32)
        rest, made = weight.T if product.is_transposed else weight, []
        is_finer = self.finer and (product.carries_values or "keys" in product.makes) and not product.makes_logits
        for part in ("high", "low") if is_finer else ("high",):
            scales = np.maximum(np.abs(rest).max(axis=0), 1e-12) / _STEPS
            numbers = np.rint(rest / scales)
            rest = rest - numbers * scales
            arrays = {"numbers": numbers.astype(np.int8), "scales": scales.astype(np.float32)}
            if product.makes_logits:
                arrays["sums"] = (numbers.sum(axis=0) * int(_MIDDLE)).astype(np.int32)
            values = [
                stored_value(f"{name}.{part}.{what}", np.ascontiguousarray(array), self.output, DATA)
                for what, array in arrays.items()
            ]
            for value in values:
                self.graph.initializers.add(value)
            made.append(tuple(values))
        return made
