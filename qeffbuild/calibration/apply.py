"""A graph, a method and perhaps a text on its way through -> the graph with the method's weights.

A method is a module of `quantizers`: it has `quantize` (integers in blocks), `quantize_rows` (integers with a scale per
row) or `emulate` (rounded floats).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.calibration.flow import EXACT, QUANTIZED, Flow
from qeffbuild.calibration.seen import Seen, sum_up
from qeffbuild.calibration.sensitivity import Candidate, divergence
from qeffbuild.calibration.solve import loss
from qeffbuild.graph.blocks import Blocks, restore, round_to_nearest
from qeffbuild.graph.dynamic import replace_by_integers
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.fold import compute, identity, remove_unread, sources
from qeffbuild.graph.held import decoded_names
from qeffbuild.graph.products import (
    Matrices,
    Packed,
    Product,
    as_rows,
    by_input,
    divide_input,
    replace_product,
    why_not,
)
from qeffbuild.graph.weights import Weights, reference_of
from qeffbuild.graph.write import DataFile, stored_value

DATA = "quantized.data"
HEAD = "lm_head.weight"  # what the weight that makes the logits is also called, tied to the embeddings or not


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A product that will be quantized, and what reaches each of its matrices."""

    product: Product
    names: list[str]
    matrices: list[np.ndarray]
    is_stack: bool
    seen: list[Seen]


class Quantization:
    """One graph being quantized, an input at a time: only the weights that read it are in memory."""

    def __init__(
        self,
        model: ir.Model,
        weights: Weights,
        names: dict[tuple[str, int], str],
        output: DataFile,
        method: Any,
        params: Mapping[str, Any],
        flow: Flow | None = None,
    ) -> None:
        self.model, self.weights, self.names, self.output, self.params = model, weights, names, output, params
        self.method, self.flow = method, flow
        self.location = DATA
        self.emit = Emitter(model.graph, "quantized")
        self.made: dict[str, Matrices] = {}
        self.numbers = count()  # parts of one weight have its name, but are tensors of their own
        self.quantized: dict[str, list[int]] = {}
        self.losses: dict[str, float] = {}
        self.kept: dict[str, str] = {}
        self.eight: Sequence[str] = ()  # of a 4-bit method: weights that get 8 bits
        self.unseen: list[str] = []
        # Products inside of a loop over tokens, which no text reaches: 8 bits, to the nearest, do no harm.
        self._out_of_sight: set[ir.Node] = set()
        self._just_seen: tuple[str, int, list[Seen]] | None = None  # products of a group see the same

    def carry_out(self, progress: Callable[[float, str], None]) -> dict[str, Any]:
        groups = by_input(self.model.graph)
        if self.flow is not None:
            unseen, seen = ordered(groups, self.flow)
            self._out_of_sight = {each.node for group in unseen for each in group}
            groups = [*unseen, *seen]
        for done, group in enumerate(groups):
            chosen = list(self._choose(group))
            if chosen:
                progress(done / len(groups), chosen[0].names[0])
                self._quantize(chosen)
        remove_unread(self.model.graph)
        self.model.opset_imports["com.microsoft"] = 1
        said = {"quantized": self.quantized, "kept": self.kept, "eight": list(self.eight)}
        if self.flow is not None:
            said |= {
                "calibrated_on": self.flow.tokens,
                "loss": self.losses,
                "unseen": self.unseen,
                "kl": divergence(self.flow, [QUANTIZED])[0],
            }
        return {**said, "bytes": self.output.position}

    def _choose(self, group: Sequence[Product]) -> Iterator[_Chosen]:
        """Those of a group that are quantized; the others get a line in `kept`."""
        for product in group:
            names = names_of(product, self.names)
            weight = compute(product.weight, self.weights)
            reason = kept_by(names, self.params["keep"]) or why_not(product, weight)
            if reason:
                self.kept[names[0]] = reason
                continue
            matrices = as_rows(product, weight)
            yield _Chosen(product, names, matrices, weight.ndim == 3, self._see(product, len(matrices)))

    def _see(self, product: Product, experts: int) -> list[Seen]:
        if self.flow is None or self._is_unseen(product):
            return []
        x = product.x.name or ""
        if self._just_seen is None or self._just_seen[:2] != (x, experts):
            self.flow.reach(x)
            pairs = zip(self.flow.batches(x, QUANTIZED), self.flow.batches(x, EXACT), strict=True)
            self._just_seen = (x, experts, sum_up(pairs, experts))
        return self._just_seen[2]

    def _quantize(self, chosen: list[_Chosen]) -> None:
        if hasattr(self.method, "emulate") or hasattr(self.method, "quantize_rows"):
            for each in chosen:
                self._round(each) if hasattr(self.method, "emulate") else self._integers(each)
            return
        factors = self._scale_inputs(chosen)
        for each in chosen:
            key = f"{identity(each.product.weight)} {each.product.is_transposed}"
            if key not in self.made or factors is not None:
                self.made[key] = self._pack(each, factors)
            made = self.made[key]
            replace_product(self.emit, each.product, made)
            self._note(each, (made.packed[0].rows, made.packed[0].columns))

    def _note(self, chosen: _Chosen, shape: Sequence[int]) -> None:
        self.quantized[chosen.names[0]] = list(shape)
        if self._is_unseen(chosen.product):
            self.unseen.append(chosen.names[0])

    def _round(self, chosen: _Chosen) -> None:
        """Other floats in the same place."""
        rounded = [self.method.emulate(matrix) for matrix in chosen.matrices]
        turned = [matrix if chosen.product.is_transposed else matrix.T for matrix in rounded]
        whole = np.stack(turned) if chosen.is_stack else turned[0]
        value = self._value(f"{chosen.names[0]}.{next(self.numbers)}.rounded", whole, chosen.product)
        chosen.product.node.replace_input_with(1, value)
        self._note(chosen, chosen.matrices[0].shape)

    def _integers(self, chosen: _Chosen) -> None:
        name = chosen.names[0]
        if chosen.is_stack:
            self.kept[name] = "a stack: only plain matrices are multiplied as whole numbers"
            return
        numbers, scales = self.method.quantize_rows(chosen.matrices[0])
        prefix = f"{name}.{next(self.numbers)}"
        stored = self._value(f"{prefix}.numbers", np.ascontiguousarray(numbers.T), None)
        replace_by_integers(self.emit, chosen.product, stored, self._value(f"{prefix}.scales", scales, None))
        self._note(chosen, numbers.shape)

    def _value(self, name: str, array: np.ndarray, like: Product | None) -> ir.Value:
        if like is not None:
            array = array.astype((like.x.dtype or ir.DataType.FLOAT).numpy())
        value = stored_value(name, np.ascontiguousarray(array), self.output, self.location)
        self.model.graph.initializers.add(value)
        return value

    def _scale_inputs(self, chosen: list[_Chosen]) -> np.ndarray | None:
        """Factors of the columns, where the method has such; the input is divided by them in the graph."""
        plain = not any(each.is_stack or self._is_unseen(each.product) for each in chosen)
        if not plain or not hasattr(self.method, "scale_inputs"):
            return None
        weights = [each.matrices[0] for each in chosen]
        said = self._format(chosen[0])
        factors: np.ndarray | None = self.method.scale_inputs(weights, chosen[0].seen[0], **said)
        if factors is not None:
            divide_input(self.emit, [each.product for each in chosen], factors)
        return factors

    def _pack(self, chosen: _Chosen, factors: np.ndarray | None) -> Matrices:
        packed, restored = [], []
        said = self._format(chosen)
        bits = said["bits"]
        for at, matrix in enumerate(chosen.matrices):
            blocks = self._blocks(chosen, at, factors, said)
            values = self._store(f"{chosen.names[0]}.{next(self.numbers)}.{at}", blocks, chosen.product)
            packed.append(Packed(values, matrix.shape[0], matrix.shape[1], bits, said["block_size"]))
            if chosen.seen:
                found = restore(blocks, bits=bits, columns=matrix.shape[1])
                restored.append(found if factors is None else found / factors)
        if chosen.seen:
            self._substitute(chosen, restored)
        return Matrices(tuple(packed), chosen.is_stack)

    def _is_unseen(self, product: Product) -> bool:
        return product.node in self._out_of_sight

    def _blocks(self, chosen: _Chosen, at: int, factors: np.ndarray | None, said: Mapping[str, Any]) -> Blocks:
        matrix = chosen.matrices[at]
        if self._is_unseen(chosen.product):
            return round_to_nearest(matrix, **said)
        scaled, more = matrix if factors is None else matrix * factors, dict[str, Any]()
        if self.method.CALIBRATED:
            seen = chosen.seen[at]
            more["seen"] = seen if factors is None else seen.divided(factors)
        blocks: Blocks = self.method.quantize(scaled, **said, **more)
        return blocks

    def _substitute(self, chosen: _Chosen, restored: list[np.ndarray]) -> None:
        """Layers behind this one are calibrated on what the quantized one gives them."""
        assert self.flow is not None
        pairs = zip(chosen.matrices, restored, chosen.seen, strict=True)
        self.losses[chosen.names[0]] = float(
            np.mean([loss(matrix, made, seen.hessian) for matrix, made, seen in pairs])
        )
        turned = [values if chosen.product.is_transposed else values.T for values in restored]
        whole = np.stack(turned) if chosen.is_stack else turned[0]
        self.flow.substitute(chosen.product.node.outputs[0].name or "", np.ascontiguousarray(whole))

    def _format(self, chosen: _Chosen) -> dict[str, Any]:
        said = {name: self.params[name] for name in ("bits", "block_size", "symmetric")}
        rows, columns = chosen.matrices[0].shape
        product = chosen.product
        if product.carries_values:
            said |= {name: self.params.get(f"attention_{name}") or said[name] for name in ("bits", "block_size")}
        else:
            kind = "head" if product.makes_logits else "query" if product.makes else "down" if rows < columns else ""
            said["block_size"] = self.params.get(f"{kind}_block_size") or said["block_size"]
        return {**said, "bits": 8} if chosen.names[0] in self.eight or self._is_unseen(chosen.product) else said

    def _store(self, name: str, blocks: Blocks, product: Product) -> tuple[ir.Value, ...]:
        values = [
            self._value(f"{name}.numbers", blocks.packed, None),
            self._value(f"{name}.scales", blocks.scales, product),
        ]
        if blocks.zero_points is not None:
            values.append(self._value(f"{name}.zeros", blocks.zero_points, None))
        return tuple(values)


def ordered(groups: Sequence[list[Product]], flow: Flow) -> tuple[list[list[Product]], list[list[Product]]]:
    """Groups that no text reaches, and the others in the order in which it does."""
    places = [flow.place(group[0].x.name or "") for group in groups]
    unseen = [group for group, place in zip(groups, places, strict=True) if place is None]
    seen = [(place, group) for group, place in zip(groups, places, strict=True) if place is not None]
    return unseen, [group for _, group in sorted(seen, key=lambda pair: pair[0])]


def names_of(product: Product, stored: Mapping[tuple[str, int], str]) -> list[str]:
    """What a product's weight is called: in the checkpoint, in the graph, and by what it does."""
    references = [reference_of(tensor) for tensor in sources(product.weight)]
    found = [stored.get((said.location, said.offset)) for said in references]
    role = [HEAD] if product.makes_logits else []
    return [name for name in (*decoded_names(product.weight), *found, product.weight.name, *role) if name]


def kept_by(names: Sequence[str], patterns: Sequence[str]) -> str | None:
    found = (pattern for pattern in patterns for name in names if fnmatchcase(name, pattern))
    return next((f"keep {pattern}" for pattern in found), None)


def candidates(
    model: ir.Model, weights: Weights, stored: Mapping[tuple[str, int], str], keep: Sequence[str], flow: Flow
) -> tuple[list[Candidate], dict[str, int]]:
    """Every product that a method would quantize, in the order in which the text reaches them; and their sizes."""
    found, sizes = [], {}
    _, groups = ordered(by_input(model.graph), flow)
    for product in (product for group in groups for product in group):
        names, weight = names_of(product, stored), compute(product.weight, weights)
        if kept_by(names, keep) or why_not(product, weight):
            continue
        sizes[names[0]] = weight.size
        found.append(
            Candidate(
                name=names[0],
                x=product.x.name or "",
                output=product.node.outputs[0].name or "",
                matrices=lambda product=product: as_rows(product, compute(product.weight, weights)),  # type: ignore[misc]
                turned=not product.is_transposed,
                is_stack=weight.ndim == 3,
            )
        )
    return found, sizes
