"""One weight used in two ways is computed from the original both times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from safetensors.numpy import save_file

from qeffbuild.graph.files import save_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights


def test_a_weight_may_be_read_as_it_is_and_transposed(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    (tmp_path / "checkpoint").mkdir()
    save_file({"w": weight}, tmp_path / "checkpoint" / "model.safetensors")
    offset = (tmp_path / "checkpoint" / "model.safetensors").stat().st_size - weight.nbytes
    float32 = ir.TensorType(ir.DataType.FLOAT)
    stored = ir.ExternalTensor(
        "model.safetensors", offset, weight.nbytes, ir.DataType.FLOAT, shape=ir.Shape([32, 32]), name="w"
    )
    value = ir.Value(name="w", shape=ir.Shape([32, 32]), type=float32, const_value=stored)
    x = ir.Value(name="x", shape=ir.Shape([1, 32]), type=float32)
    plain = ir.node("MatMul", [x, value])
    turned = ir.node("Transpose", [value], {"perm": [1, 0]})
    both = ir.node("MatMul", [plain.outputs[0], turned.outputs[0]])
    both.outputs[0].name, both.outputs[0].type, both.outputs[0].shape = "y", float32, ir.Shape([1, 32])
    graph = ir.Graph([x], [both.outputs[0]], nodes=[plain, turned, both], initializers=[value], opset_imports={"": 20})
    model = ir.Model(graph, ir_version=10)

    write_weights(model, Weights(Folder(tmp_path / "checkpoint")), tmp_path / "graph.data")
    save_graph(model, tmp_path / "graph.onnx")

    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    said = session.run(None, {"x": np.eye(1, 32, dtype=np.float32)})[0]
    np.testing.assert_allclose(said, np.eye(1, 32, dtype=np.float32) @ weight @ weight.T, rtol=1e-5)
