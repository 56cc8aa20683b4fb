"""A graph of a later opset -> the same graph in opset 17, or an error that names what has no such form."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from qeffbuild.errors import ModelError
from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.fold import remove_unread

OPSET = 17
IR_VERSION = 8  # what goes with opset 17

Rule = Callable[[Emitter, ir.Node], ir.Value | None]


def to_opset17(model: ir.Model) -> None:
    """Rewrites `model`. A rule gives a value in the place of its node's, or changes the node and gives None."""
    emit = Emitter(model.graph, "opset17")
    for node in list(model.graph.all_nodes()):  # those inside loops, too
        if node.domain not in ("", "ai.onnx") or (rule := RULES.get(node.op_type)) is None:
            continue
        if (new := rule(emit, node)) is not None:
            owner = node.graph
            assert isinstance(owner, ir.Graph)
            replace_value(owner, node.outputs[0], new)
            owner.insert_before(node, emit.waiting())
    remove_unread(model.graph)
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx"):
            _check_node(node)
    model.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION


def _check_node(node: ir.Node) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, OPSET, "")
    except onnx.defs.SchemaError as cause:
        raise _unsupported(node, "there is no such operator") from cause
    if unknown := sorted(set(node.attributes) - set(schema.attributes)):
        raise _unsupported(node, f"attribute {unknown[0]} is unknown")
    if len(node.inputs) > schema.max_input:
        raise _unsupported(node, f"it has at most {schema.max_input} inputs")


def _unsupported(node: ir.Node, why: str) -> ModelError:
    return ModelError(
        "onnx.unsupported",
        f"operator {node.op_type} ({node.name}): in opset {OPSET} {why}",
        hint="this model needs another backend",
    )


def _axes_to_attribute(emit: Emitter, node: ir.Node) -> ir.Value | None:
    """Opset 18 made the axes of reductions an input."""
    if "noop_with_empty_axes" in node.attributes:
        if node.attributes["noop_with_empty_axes"].as_int() and len(node.inputs) < 2:
            return emit("Identity", node.inputs[0])
        del node.attributes["noop_with_empty_axes"]
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return None
    axes = ir.convenience.get_const_tensor(node.inputs[1])
    if axes is None:
        raise _unsupported(node, "its axes must be constant")
    node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in axes.numpy().reshape(-1)])
    node.resize_inputs(1)
    return None


def _even_split(emit: Emitter, node: ir.Node) -> None:
    """Opset 18 counts the parts; before, their number was that of the outputs."""
    if "num_outputs" not in node.attributes:
        return
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    value, parts = node.inputs[0], len(node.outputs)
    size = None if value is None or value.shape is None else value.shape[axis]
    if not isinstance(size, int) or size % parts:
        raise _unsupported(node, f"{size} does not divide into {parts} even parts")
    del node.attributes["num_outputs"]


def _drop(*names: str) -> Rule:
    """Attributes that came later and say something about types that opset 17 does not have."""

    def rule(emit: Emitter, node: ir.Node) -> None:
        for name in names:
            node.attributes.pop(name, None)

    return rule


def _sampled(emit: Emitter, node: ir.Node) -> None:
    """Opset 20 took the two from the names of modes."""
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "linear"
    node.attributes["mode"] = ir.AttrString("mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode))


def _resize(emit: Emitter, node: ir.Node) -> None:
    """Opset 18 brought filters and a policy of sides; without the one, and stretched, a picture is sized as before."""
    for name, usual in (("antialias", 0), ("keep_aspect_ratio_policy", "stretch")):
        if name in node.attributes and node.attributes[name].value == usual:
            del node.attributes[name]


def _gelu(emit: Emitter, node: ir.Node) -> ir.Value:
    x = _only(node)
    dtype = (x.dtype or ir.DataType.FLOAT).numpy()
    half, one = np.array(0.5, dtype), np.array(1, dtype)
    if "approximate" in node.attributes and node.attributes["approximate"].as_string() == "tanh":
        cube = emit("Mul", emit("Mul", emit("Mul", x, x), x), np.array(0.044715, dtype))
        inner = emit("Mul", emit("Add", x, cube), np.array(math.sqrt(2 / math.pi), dtype))
        curve = emit("Tanh", inner)
    else:
        curve = emit("Erf", emit("Mul", x, np.array(math.sqrt(0.5), dtype)))
    return emit("Mul", emit("Mul", x, emit("Add", curve, one)), half)


def _swish(emit: Emitter, node: ir.Node) -> ir.Value:
    x = _only(node)
    alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
    scaled = x if alpha == 1.0 else emit("Mul", x, np.array(alpha, (x.dtype or ir.DataType.FLOAT).numpy()))
    return emit("Mul", x, emit("Sigmoid", scaled))


def _mish(emit: Emitter, node: ir.Node) -> ir.Value:
    return emit("Mul", _only(node), emit("Tanh", emit("Softplus", _only(node))))


def _rms_norm(emit: Emitter, node: ir.Node) -> ir.Value:
    """x * rsqrt(mean(x^2, last axis) + epsilon) * weight, in float32 as the operator promises."""
    x, weight = node.inputs[0], node.inputs[1]
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    if x is None or weight is None or x.dtype is None or (axis != -1 and (x.shape is None or axis != len(x.shape) - 1)):
        raise _unsupported(node, "only its form over the last axis can be written out")
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    wide = emit("Cast", x, to=int(ir.DataType.FLOAT))
    mean = emit("ReduceMean", emit("Mul", wide, wide), axes=[-1], keepdims=1)
    root = emit("Sqrt", emit("Add", mean, np.array(epsilon, np.float32)))
    return emit("Mul", emit("Cast", emit("Div", wide, root), to=int(x.dtype)), weight)


def _only(node: ir.Node) -> ir.Value:
    (x,) = node.inputs
    assert x is not None
    return x


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2"),
            *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
        ),
        _axes_to_attribute,
    ),
    "Cast": _drop("saturate", "round_mode"),
    "CastLike": _drop("saturate", "round_mode"),
    "Gelu": _gelu,
    "GridSample": _sampled,
    "Mish": _mish,
    "RMSNormalization": _rms_norm,
    "Resize": _resize,
    "Split": _even_split,
    "Swish": _swish,
}
