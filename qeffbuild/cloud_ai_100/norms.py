"""Norms by the root of the mean square -> calls of CustomRMSNorm, which the compiler knows, as a function that any
runtime can execute: x / sqrt(mean(x^2) + epsilon) * weight over the last axis, in float32.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import foldable_values, remove_unread
from qeffbuild.graph.norms import root_mean_square

DOMAIN = "com.qti.aisw.onnx"
NAME = "CustomRMSNorm"

_TEXT = """<opset_import: ["" : 17], domain: "com.qti.aisw.onnx">
CustomRMSNorm <epsilon> (hidden_states, weight) => (return_val) {
    shift = Constant <value_float: float = @epsilon> ()
    wide = Cast <to = 1> (hidden_states)
    square = Mul (wide, wide)
    mean = ReduceMean <axes = [-1], keepdims = 1> (square)
    shifted = Add (mean, shift)
    root = Sqrt (shifted)
    scaled = Div (wide, root)
    narrow = CastLike (scaled, hidden_states)
    return_val = Mul (narrow, weight)
}"""


def call_norms(model: ir.Model) -> None:
    """Rewrites what a trace wrote out."""
    graph, foldable = model.graph, foldable_values(model.graph)
    emit, is_called = Emitter(graph, "norm"), False
    for node in list(graph):
        norm = root_mean_square(node, foldable)
        if norm is None:
            continue
        made = emit(NAME, norm.x, norm.weight, domain=DOMAIN, epsilon=norm.epsilon)
        replace_value(graph, node.outputs[0], made)
        emit.place(node)
        is_called = True
    if not is_called:
        return
    remove_unread(graph)
    function = ir.serde.deserialize_function(onnx.parser.parse_function(_TEXT))
    for number, node in enumerate(function):
        node.name = f"{node.op_type}_{number}"
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = 1
