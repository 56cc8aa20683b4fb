"""A graph in float16 or bfloat16 computes the same in float32, with the narrow weights' values, and rounds where asked."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from qeffbuild.graph.files import save_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.widen import widen, widened
from qeffbuild.graph.write import write_weights
from qeffbuild.signature import IoSignature, State, Tensor

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 40)).astype(np.float32)
WEIGHT = RNG.normal(size=(40, 40)).astype(np.float32)


def narrow_graph(folder: Path, kind: ir.DataType) -> ir.Model:
    """y = (x @ w + 1/3)^2 in a narrow dtype, where w is stored in float32."""
    WEIGHT.tofile(folder / "w.bin")
    stored = ir.ExternalTensor("w.bin", 0, WEIGHT.nbytes, ir.DataType.FLOAT, shape=ir.Shape(WEIGHT.shape), name="w")
    w = ir.Value(name="w", shape=ir.Shape(WEIGHT.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=stored)
    x = ir.Value(name="x", shape=ir.Shape(["rows", 40]), type=ir.TensorType(kind))
    third = ir.node("Constant", [], {"value": ir.tensor(np.array(1 / 3, kind.numpy()))})
    rounded = ir.node("Cast", [w], {"to": int(kind)})
    product = ir.node("MatMul", [x, rounded.outputs[0]])
    total = ir.node("Add", [product.outputs[0], third.outputs[0]])
    square = ir.node("Mul", [total.outputs[0], total.outputs[0]])
    nodes = [third, rounded, product, total, square]
    for node in nodes:
        node.outputs[0].name, node.outputs[0].type = f"{node.op_type.lower()}", ir.TensorType(kind)
    square.outputs[0].name = "y"
    graph = ir.Graph([x], square.outputs, nodes=nodes, initializers=[w], opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, folder: Path) -> np.ndarray:
    write_weights(model, Weights(Folder(folder)), folder / "graph.data")
    save_graph(model, folder / "graph.onnx")
    session = onnxruntime.InferenceSession(folder / "graph.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": X})
    return y


@pytest.mark.parametrize("name", DTYPES)
def test_weights_are_rounded_and_the_rest_is_exact(name: str, tmp_path: Path) -> None:
    model, kind = narrow_graph(tmp_path, ir.DataType.from_numpy(DTYPES[name])), DTYPES[name]

    widen(model)

    third = np.float32(np.array(1 / 3, kind))
    wanted = np.square(X @ WEIGHT.astype(kind).astype(np.float32) + third)
    assert {value.dtype for node in model.graph for value in node.outputs if node.op_type != "Cast"} == {
        ir.DataType.FLOAT
    }
    np.testing.assert_allclose(run(model, tmp_path), wanted, rtol=1e-4, atol=1e-4)
    assert model.graph.outputs[0].name == "y"


@pytest.mark.parametrize("name", DTYPES)
def test_every_result_is_rounded_where_that_is_asked_for(name: str, tmp_path: Path) -> None:
    model, kind = narrow_graph(tmp_path, ir.DataType.from_numpy(DTYPES[name])), DTYPES[name]

    widen(model, rounding=True)

    y = run(model, tmp_path)
    assert y.dtype == np.float32
    assert np.array_equal(y, y.astype(kind).astype(np.float32))
    exact = np.square(X @ WEIGHT + 1 / 3)
    assert 1e-4 < np.abs(y - exact).max() / exact.std() < 0.1


def test_a_graph_in_float32_stays_as_it_is(tmp_path: Path) -> None:
    model = narrow_graph(tmp_path, ir.DataType.FLOAT)
    before = [node.op_type for node in model.graph]

    assert widen(model, rounding=True) == 0
    assert [node.op_type for node in model.graph] == [kind for kind in before if kind != "Cast"]  # an idle one


def test_a_signature_is_widened_but_for_integers() -> None:
    ids = Tensor(name="input_ids", dtype="int64", axes=("batch_size", "seq_len"))
    key = State(name="k", output="k_", dtype="bfloat16", axes=("batch_size", "ctx_len"), layer=0, kind="key")
    held = Tensor(name="vision_embeds", dtype="float16", axes=("batch_size", 4))

    said = widened(IoSignature(graph="decoder", inputs=(ids,), outputs=(), states=(key,), held=(held,)))

    assert [tensor.dtype for tensor in (*said.inputs, *said.states, *said.held)] == ["int64", "float32", "float32"]
