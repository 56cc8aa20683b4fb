"""Neutral graph -> the same graph with quantized matrix products; the new tensors lie beside it in quantized.data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild import quantizers
from qeffbuild.executor.work import Work
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.fold import compute, identity, remove_unread, sources
from qeffbuild.graph.products import Product, as_rows, products, replace_product
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder, reference_of
from qeffbuild.graph.write import DataFile, stored_value
from qeffbuild.graphs import members

DATA = "quantized.data"
HEAD = "lm_head.weight"  # what the weight that makes the logits is also called, tied to the embeddings or not


def run(work: Work) -> None:
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))
    weights = Weights(Folder(work.inputs["graph"]), checkpoint)
    names = {(said["file"], said["offset"]): name for name, said in facts["tensors"].items()}
    for member in members(work.inputs["graph"]):
        model = load_graph(member.graph)
        with (work.out / f"{member.prefix}{DATA}").open("wb") as file:
            quantization = _Quantization(model, weights, names, DataFile(file), work.params)
            quantization.location = f"{member.prefix}{DATA}"
            said = quantization.carry_out(work)
        save_graph(model, work.out / member.file)
        shutil.copyfile(member.io, work.out / member.io.name)
        (work.out / f"{member.prefix}quantize.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


class _Quantization:
    """One graph being quantized, a product at a time: never more than one weight is in memory."""

    def __init__(
        self,
        model: ir.Model,
        weights: Weights,
        names: dict[tuple[str, int], str],
        output: DataFile,
        params: Any,
    ) -> None:
        self.model, self.weights, self.names, self.output, self.params = model, weights, names, output, params
        self.quantize = quantizers.find(params["method"]).quantize
        self.emit = Emitter(model.graph, "quantized")
        self.made: dict[str, list[ir.Value]] = {}
        self.quantized: dict[str, list[int]] = {}
        self.kept: dict[str, str] = {}
        self.location = DATA

    def carry_out(self, work: Work) -> dict[str, Any]:
        found = list(products(self.model.graph))
        for done, product in enumerate(found):
            names = self._names(product)
            work.progress(done / len(found), names[0])
            if reason := self._one(product, names):
                self.kept[names[0]] = reason
        remove_unread(self.model.graph)
        self.model.opset_imports["com.microsoft"] = 1
        said = {"schema": 1, **self.params, "quantized": self.quantized, "kept": self.kept}
        return {**said, "bytes": self.output.position}

    def _one(self, product: Product, names: Sequence[str]) -> str | None:
        """Quantizes one product; the reason where it stays as it is."""
        for pattern in self.params["keep"]:
            if any(fnmatchcase(name, pattern) for name in names):
                return f"keep {pattern}"
        if product.is_router:
            return "it chooses experts: a small error would choose others"
        weight = compute(product.weight, self.weights)
        if weight.ndim != 2:
            return f"{weight.ndim} axes: only plain matrices are quantized"
        rows, columns = weight.shape if product.is_transposed else weight.shape[::-1]
        bits, block_size = self.params["bits"], self.params["block_size"]
        key = f"{identity(product.weight)} {product.is_transposed}"
        if key not in self.made:
            self.made[key] = self._store(names[0], as_rows(product, weight), product.x.dtype)
        replace_product(
            self.emit, product, self.made[key], bits=bits, block_size=block_size, rows=rows, columns=columns
        )
        self.quantized[names[0]] = [rows, columns]
        return None

    def _store(self, name: str, weight: np.ndarray, dtype: ir.DataType | None) -> list[ir.Value]:
        params = self.params
        blocks = self.quantize(
            weight, bits=params["bits"], block_size=params["block_size"], symmetric=params["symmetric"]
        )
        scales = blocks.scales.astype((dtype or ir.DataType.FLOAT).numpy())
        parts = {"numbers": blocks.packed, "scales": scales, "zeros": blocks.zero_points}
        prefix = f"{name}.{len(self.made)}"
        values: list[ir.Value] = []
        for part, array in parts.items():
            if array is None:
                continue
            value = stored_value(f"{prefix}.{part}", array, self.output, self.location)
            self.model.graph.initializers.add(value)
            values.append(value)
        return values

    def _names(self, product: Product) -> list[str]:
        """What a product's weight is called: in the checkpoint, in the graph, and by what it does."""
        references = [reference_of(tensor) for tensor in sources(product.weight)]
        stored = [self.names.get((said.location, said.offset)) for said in references]
        role = [HEAD] if product.makes_logits else []
        return [name for name in (*stored, product.weight.name, *role) if name]
