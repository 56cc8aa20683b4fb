"""Activation functions written out in elementary steps -> the one operator that computes them.

There are more spellings than functions. So what a chain of steps makes of one tensor is run on a row of numbers and
compared with what the operators give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import erf

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.probe import evaluate

_STEPS = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Tanh", "Erf", "Sigmoid", "Neg", "Sqrt", "Exp", "Reciprocal"})
_X = np.linspace(-9, 9, 181, dtype=np.float32)
_LARGEST_ERROR = 3e-6


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


Function = tuple[str, str, dict[str, object], Callable[[np.ndarray], np.ndarray]]
FUNCTIONS: tuple[Function, ...] = (
    ("FastGelu", "com.microsoft", {}, lambda x: x * _sigmoid(1.5957691216057308 * (x + 0.044715 * x**3))),
    ("Gelu", "com.microsoft", {}, lambda x: x * np.vectorize(lambda each: 0.5 * (1 + erf(each / 2**0.5)))(x)),
    ("QuickGelu", "com.microsoft", {"alpha": 1.0}, lambda x: x * _sigmoid(x)),
    ("QuickGelu", "com.microsoft", {"alpha": 1.702}, lambda x: x * _sigmoid(1.702 * x)),
)


def fuse_activations(model: ir.Model) -> dict[str, int]:
    """Rewrites what is one of `FUNCTIONS`; how often each was met."""
    graph, found = model.graph, Counter[str]()
    emit, known = Emitter(graph, "activation"), dict[str, Function | None]()
    for value, (source, spelling) in _chains(graph).items():
        if spelling not in known:
            known[spelling] = _function(value, source, model.opset_imports[""])
        function = known[spelling]
        if function is None:
            continue
        op_type, domain, attributes, _ = function
        node = value.producer()
        assert node is not None
        replace_value(graph, value, emit(op_type, source, domain=domain, **attributes))
        emit.place(node)
        found[op_type] += 1
    remove_unread(graph)
    return dict(sorted(found.items()))


def _chains(graph: ir.Graph) -> dict[ir.Value, tuple[ir.Value, str]]:
    """Ends of chains of at least two steps on one tensor: that tensor, and the chain spelt out."""
    chains: dict[ir.Value, tuple[ir.Value, str]] = {}
    for node in graph:
        if node.domain != "" or node.op_type not in (*_STEPS, "Gelu"):
            continue
        parts = [_part(value, chains) for value in node.inputs if value is not None]
        sources = {source for source, _ in parts if source is not None}
        if len(sources) != 1 or any(not spelling for _, spelling in parts):
            continue
        words = f"{node.op_type}({', '.join(spelling for _, spelling in parts)}){dict(node.attributes)}"
        chains[node.outputs[0]] = (sources.pop(), words)
    inner = {
        value
        for end, (source, _) in chains.items()
        for value in end.producer().inputs  # type: ignore[union-attr]
        if value is not None and chains.get(value, (None,))[0] is source
    }
    ends = {value: chain for value, chain in chains.items() if value not in inner and "(" in chain[1]}
    return {value: chain for value, chain in ends.items() if chain[0].dtype == ir.DataType.FLOAT}


def _part(value: ir.Value, chains: dict[ir.Value, tuple[ir.Value, str]]) -> tuple[ir.Value | None, str]:
    """An operand's source and spelling: of a chain, of a number, or the tensor itself."""
    if value in chains:
        return chains[value]
    number = _number(value)
    if number is not None:
        return None, repr(number)
    return (value, "x") if value.shape is not None else (None, "")


def _number(value: ir.Value) -> float | None:
    tensor = value.const_value if value.producer() is None else _constant(value.producer())
    if tensor is None or isinstance(tensor, ir.ExternalTensor) or tensor.size != 1:
        return None
    return float(tensor.numpy().reshape(-1)[0])


def _constant(node: ir.Node | None) -> ir.TensorProtocol | None:
    is_tensor = node is not None and node.op_type == "Constant" and "value" in node.attributes
    return node.attributes["value"].as_tensor() if is_tensor else None  # type: ignore[union-attr]


def _function(value: ir.Value, source: ir.Value, opset: int) -> Function | None:
    try:
        (found,) = evaluate([value], {source: _X}, opset)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError):
        return None
    for function in FUNCTIONS:
        if found.shape == _X.shape and np.abs(found - function[3](_X.astype(np.float64))).max() < _LARGEST_ERROR:
            return function
    return None
