"""Products of bytes are exact on any processor, wherever their weights come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qeffbuild.graph.saturation import PRODUCT, make_unsigned, unsigned

WIDTH, OUTPUTS = 96, 24
LARGEST = np.where(np.arange(WIDTH * OUTPUTS).reshape(WIDTH, OUTPUTS) % 5, 127, -127).astype(np.int8)


def bytes_of(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(200, 256, (rows, WIDTH)).astype(np.uint8)


def product(output: str = "y") -> onnx.NodeProto:
    return helper.make_node("MatMulInteger", ["x", "w"], [output])


def graph_of(nodes: Sequence[onnx.NodeProto], weights: Sequence[onnx.TensorProto] = (), *more: str) -> onnx.GraphProto:
    types = {"x": TensorProto.UINT8, "w": TensorProto.INT8}
    inputs = [helper.make_tensor_value_info(name, types[name], None) for name in ("x", *more)]
    return helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info("y")], weights)


def run(graph: onnx.GraphProto, feed: dict[str, np.ndarray], folder: Path | None = None) -> np.ndarray:
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = ort.SessionOptions()
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, feed)[0]
    return found


def exact(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int64) @ LARGEST.astype(np.int64)


def test_what_the_processor_is_asked_is_a_product_of_bytes() -> None:
    inputs = [
        helper.make_tensor_value_info(name, said, None)
        for name, said in {"a": TensorProto.UINT8, "b": TensorProto.INT8}.items()
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, None)]
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=4)
    assert onnx.load_from_string(PRODUCT) == model


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_weights_inside_of_the_graph(rows: int) -> None:
    graph = graph_of([product()], [numpy_helper.from_array(LARGEST, "w")])

    assert make_unsigned(graph) == set()
    np.testing.assert_array_equal(run(graph, {"x": bytes_of(rows)}), exact(bytes_of(rows)))


def test_weights_that_come_in() -> None:
    graph = graph_of([product()], (), "w")

    assert make_unsigned(graph) == {"w"}
    np.testing.assert_array_equal(run(graph, {"x": bytes_of(3), "w": unsigned(LARGEST)}), exact(bytes_of(3)))


def test_weights_in_a_file(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(LARGEST, "w")
    onnx.external_data_helper.set_external_data(tensor, "weights", 0, LARGEST.nbytes)
    tensor.ClearField("raw_data")
    graph = graph_of([product()], [tensor])

    assert make_unsigned(graph) == {"w"}
    (tmp_path / "weights").write_bytes(unsigned(LARGEST).tobytes())
    np.testing.assert_array_equal(run(graph, {"x": bytes_of(2)}, tmp_path), exact(bytes_of(2)))


def test_two_products_by_one_weight_one_of_them_in_a_branch() -> None:
    def branch(name: str) -> onnx.GraphProto:
        return helper.make_graph([product(name)], name, [], [helper.make_empty_tensor_value_info(name)])

    nodes = [
        product("one"),
        helper.make_node("If", ["always"], ["two"], then_branch=branch("then"), else_branch=branch("else")),
        helper.make_node("Add", ["one", "two"], ["y"]),
    ]
    weights = {"w": LARGEST, "always": np.array(True)}
    graph = graph_of(nodes, [numpy_helper.from_array(array, name) for name, array in weights.items()])

    make_unsigned(graph)
    np.testing.assert_array_equal(run(graph, {"x": bytes_of(4)}), 2 * exact(bytes_of(4)))


def test_products_by_unsigned_bytes_and_with_a_scale() -> None:
    one, scales = np.array(1, np.float32), np.full(OUTPUTS, 0.5, np.float32)
    weights = {"w": LARGEST, "one": one, "scales": scales, "middle": np.array(128, np.uint8), "u": unsigned(LARGEST)}
    scaled = helper.make_node(
        "MatMulIntegerToFloat", ["x", "w", "one", "scales", "middle"], ["f"], domain="com.microsoft"
    )
    plain = helper.make_node("MatMulInteger", ["x", "u", "", "middle"], ["p"])
    nodes = [scaled, plain, helper.make_node("Cast", ["p"], ["c"], to=TensorProto.FLOAT)]
    graph = graph_of(
        [*nodes, helper.make_node("Add", ["f", "c"], ["y"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )

    make_unsigned(graph)
    wanted = exact(bytes_of(5)) + 0.5 * (bytes_of(5).astype(np.int64) - 128) @ LARGEST.astype(np.int64)
    np.testing.assert_allclose(run(graph, {"x": bytes_of(5)}), wanted, rtol=1e-6)
