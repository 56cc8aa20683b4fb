"""The cache's rounding, as graph nodes, gives what the format's definition gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from qeffbuild.calibration.kv import Scales, drop_rounding, round_to_int8, round_to_mxint8
from qeffbuild.graph.files import DOMAIN
from qeffbuild.graph.microscaling import INT8, round_blocks


def rounded(values: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    """What a cache would be given, of these keys."""
    shape = ir.Shape(values.shape)
    cache, updates = (ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT)) for name in ("c", "u"))
    positions = ir.Value(name="p", shape=ir.Shape(["B", "S"]), type=ir.TensorType(ir.DataType.INT64))
    node = ir.node("CtxScatter", [cache, positions, updates], domain=DOMAIN)
    graph = ir.Graph([cache, positions, updates], list(node.outputs), nodes=[node], opset_imports={"": 21}, name="g")
    if scales is None:
        round_to_mxint8(graph)
    else:
        round_to_int8(graph, {"c": Scales(float(scales.max()), scales)})
    result = node.inputs[2]
    assert result is not None
    graph.remove(node, safe=False)
    graph.outputs[:] = [result]
    graph.inputs[:] = [updates]
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    onnx.checker.check_model(proto)
    return ort.InferenceSession(proto.SerializeToString()).run(None, {"u": values})[0]


@pytest.mark.parametrize("width", [16, 32, 64])
def test_mxint8_is_that_of_the_specification(width: int) -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((2, 3, 5, width)) * np.exp(rng.standard_normal((2, 3, 5, 1)) * 8)).astype(np.float32)
    values[0, 0, :, 0] = 2.0 ** np.arange(-2, 3)  # powers of two, where a logarithm may be off by a hair
    values[0, 0, :, 1:] *= 0.01
    values[1, 2, 4] = 0

    np.testing.assert_array_equal(rounded(values, None), round_blocks(values, INT8))


def test_int8_is_rounded_by_the_scale_of_each_channel() -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 5, 8)).astype(np.float32)
    scales = (np.abs(values).max(axis=(0, 2)) / 100).astype(np.float32)

    step = scales[None, :, None]
    np.testing.assert_allclose(rounded(values, scales), np.rint(values / step) * step, rtol=1e-6)
    assert np.abs(rounded(values * 9, scales)).max() <= 127 * scales.max() * (1 + 1e-6)


def test_a_text_that_is_kept_is_no_cache() -> None:
    text, updates, positions = (
        ir.Value(name=name, shape=ir.Shape((1, 8)), type=ir.TensorType(ir.DataType.INT64)) for name in "tup"
    )
    node = ir.node("CtxScatter", [text, positions, updates], domain=DOMAIN)
    graph = ir.Graph([text, positions, updates], list(node.outputs), nodes=[node], name="g")

    round_to_int8(graph, {})

    assert [node.op_type for node in graph] == ["CtxScatter"]


def test_rounding_that_was_put_in_can_be_taken_out() -> None:
    shape = ir.Shape((1, 2, 3, 8))
    cache, updates = (ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT)) for name in ("c", "u"))
    positions = ir.Value(name="p", shape=ir.Shape(["B", "S"]), type=ir.TensorType(ir.DataType.INT64))
    node = ir.node("CtxScatter", [cache, positions, updates], domain=DOMAIN)
    graph = ir.Graph([cache, positions, updates], list(node.outputs), nodes=[node], opset_imports={"": 21}, name="g")
    round_to_int8(graph, {"c": Scales(1.0, np.ones((2, 8), np.float32))})
    assert node.inputs[2] is not updates

    drop_rounding(graph)

    assert [each.op_type for each in graph] == ["CtxScatter"]
    assert node.inputs[2] is updates
