"""Weights are computed as ONNX Runtime would, written once, and leave nothing behind that points elsewhere."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from neutral_decoder import LAYERS, VOCABULARY, WIDTH, make_decoder

from qeffbuild.errors import ModelError
from qeffbuild.graph.decode import BLOCKS, DECODE
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.fold import EVALUATE, compute, foldable_values, frontier, identity
from qeffbuild.graph.rounded import ROUNDED
from qeffbuild.graph.tied import share_tied_head
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import PAGE, write_weights

TABLE = np.arange(24, dtype=np.float32).reshape(4, 6)

CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Cast", [TABLE], {"to": ir.DataType.FLOAT16}),
    ("Cast", [TABLE / 7], {"to": ir.DataType.INT32}),
    ("Clip", [TABLE, np.array(3, np.float32), np.array(7, np.float32)], {}),
    ("Clip", [TABLE, np.array(3, np.float32)], {}),
    ("Concat", [TABLE, TABLE], {"axis": 1}),
    ("Concat", [TABLE, TABLE], {"axis": -2}),
    ("Gather", [TABLE, np.array([2, 0])], {"axis": 1}),
    ("Gather", [TABLE, np.array(-1)], {}),
    ("Identity", [TABLE], {}),
    ("Reshape", [TABLE, np.array([0, 2, -1])], {}),
    ("Reshape", [TABLE, np.array([-1])], {}),
    ("Slice", [TABLE, np.array([1]), np.array([100])], {}),
    ("Slice", [TABLE, np.array([0, -3]), np.array([2, -1]), np.array([0, 1])], {}),
    ("Slice", [TABLE, np.array([-1]), np.array([-1000]), np.array([1]), np.array([-2])], {}),
    ("Slice", [TABLE, np.array([5]), np.array([1]), np.array([-1]), np.array([-1])], {}),
    ("Split", [TABLE, np.array([1, 5])], {"axis": 1}),
    ("Split", [TABLE[:, :5]], {"axis": 1, "num_outputs": 3}),
    ("Squeeze", [TABLE[None], np.array([0])], {}),
    ("Squeeze", [TABLE[None, :, None]], {}),
    ("Transpose", [TABLE], {}),
    ("Transpose", [TABLE[None]], {"perm": [2, 0, 1]}),
    ("Unsqueeze", [TABLE, np.array([0, -1])], {}),
    ("Add", [TABLE, np.array(1, np.float32)], {}),
    ("Sub", [TABLE, TABLE[0]], {}),
    ("Mul", [TABLE, TABLE], {}),
    ("Div", [TABLE, np.array(3, np.float32)], {}),
    ("Div", [np.array([7, -7, 8]), np.array([2, 2, -3])], {}),
    ("Neg", [TABLE], {}),
]


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), CASES)
def test_a_folded_operator_gives_what_onnx_runtime_gives(
    op_type: str, inputs: list[Any], attributes: dict[str, Any]
) -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="one")
    emit = Emitter(graph, "n")
    count = {"Split": attributes.get("num_outputs", 2)}.get(op_type, 1)
    made = emit.several(op_type, count, *inputs, **attributes)
    graph.extend(emit.waiting())
    graph.outputs.extend(made)
    session = ort.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())

    found = [compute(value, Weights()) for value in made]

    assert set(made) <= foldable_values(graph)
    for ours, theirs in zip(found, session.run(None, {}), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_every_folded_operator_is_compared() -> None:
    # ONNX has no such operators: tests/models/test_encodings.py holds the first two against plain numpy, and
    # tests/backends/onnxruntime/test_onnxruntime_tables.py the third against what ONNX Runtime makes of its numbers.
    ours = {BLOCKS, DECODE, ROUNDED}
    assert set(EVALUATE) - ours == {op_type for op_type, _, _ in CASES}


def test_the_same_bytes_made_the_same_way_are_one_tensor() -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="tied")
    for name, offset in (("a", 0), ("b", 0), ("c", 96)):
        tensor = ir.ExternalTensor("w.bin", offset, 96, ir.DataType.FLOAT, shape=ir.Shape([4, 6]), name=name)
        graph.initializers.add(ir.Value(name=name, const_value=tensor))
    emit = Emitter(graph, "n")
    a, b, c = (emit("Transpose", graph.initializers[name], perm=[1, 0]) for name in "abc")
    untouched = emit("Transpose", graph.initializers["a"], perm=[0, 1])

    assert identity(a) == identity(b)
    assert len({identity(value) for value in (a, c, untouched, graph.initializers["a"])}) == 4


@pytest.mark.parametrize("stored", ["F32", "F16", "BF16"])
def test_the_data_file_holds_each_weight_once_in_the_dtype_of_the_graph(tmp_path: Path, stored: str) -> None:
    decoder = make_decoder(tmp_path, stored=stored)
    model = load_graph(decoder.exported / "graph.onnx")
    share_tied_head(model.graph)

    written = write_weights(model, Weights(Folder(decoder.checkpoint, is_checkpoint=True)), tmp_path / "decoder.data")

    content = (tmp_path / "decoder.data").read_bytes()
    assert written.sha256 == hashlib.sha256(content).hexdigest()
    assert written.size == len(content)
    needed = sum(array.nbytes for array in decoder.weights.values())
    assert needed - 4096 < len(content) < needed + PAGE * written.tensors
    for array in decoder.weights.values():
        copies = content.count(array.tobytes()) + content.count(np.ascontiguousarray(array.T).tobytes())
        assert copies == (0 if array.ndim == 1 else 1)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        assert not isinstance(tensor, ir.ExternalTensor) or tensor.location == "decoder.data"
    assert not any(node.op_type in ("Cast", "Transpose") and not node.inputs[0].producer() for node in model.graph)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    decoder = make_decoder(tmp_path, stored="F16")
    digests = []
    for name in ("one.data", "two.data"):
        model = load_graph(decoder.exported / "graph.onnx")
        weights = Weights(Folder(decoder.checkpoint, is_checkpoint=True))
        digests.append(write_weights(model, weights, tmp_path / name).sha256)

    assert digests[0] == digests[1]


def test_a_tied_head_reads_the_embedding_table_itself(tmp_path: Path) -> None:
    model = load_graph(make_decoder(tmp_path).exported / "graph.onnx")

    shared = share_tied_head(model.graph)

    (head,) = (node for node in model.graph if node.op_type == "Gemm" and "transB" in node.attributes)
    assert shared == ["wte.weight"]
    assert head.inputs[1] is model.graph.initializers["wte.weight"]
    assert tuple(head.inputs[1].shape) == (VOCABULARY, WIDTH)


def test_the_frontier_is_what_the_running_graph_reads(tmp_path: Path) -> None:
    model = load_graph(make_decoder(tmp_path, stored="BF16").exported / "graph.onnx")

    read = frontier(model.graph, foldable_values(model.graph))

    weights = Weights(Folder(tmp_path / "model", is_checkpoint=True))
    matrices = [compute(value, weights) for value in read if value.const_value is None]
    assert {array.dtype for array in matrices} == {np.dtype(np.float32)}
    # Per layer: q, k, v, c_proj, its bias, c_fc, its bias, c_out and two norms; then two tables, a norm and the head.
    assert len(matrices) == LAYERS * 10 + 4


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    values = np.array([1.5, -3.0e38, 2**-130, 0.1], ml_dtypes.bfloat16)
    (tmp_path / "w.bin").write_bytes(b"x" + values.tobytes())  # an odd offset, as a header can leave it
    tensor = ir.ExternalTensor("w.bin", 1, 8, ir.DataType.BFLOAT16, shape=ir.Shape([4]), name="w")

    found = Weights(Folder(tmp_path)).array(tensor)

    assert found.astype(np.float32).tolist() == values.astype(np.float32).tolist()


def test_references_of_inner_graphs_are_refused(tmp_path: Path) -> None:
    tensor = ir.ExternalTensor("w.bin", 0, 4, ir.DataType.FLOAT, shape=ir.Shape([1]), name="w")
    held = ir.Value(name="w", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor)
    inner = ir.Graph([], [held], nodes=[], initializers=[held], name="inner")
    chooser = ir.Value(name="c", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    branch = ir.node("If", [chooser], {"then_branch": inner})
    graph = ir.Graph([chooser], list(branch.outputs), nodes=[branch], opset_imports={"": 20}, name="outer")

    with pytest.raises(ModelError) as refused:
        write_weights(ir.Model(graph, ir_version=10), Weights(Folder(tmp_path)), tmp_path / "out.data")

    assert refused.value.kind == "onnx.unsupported"


def test_converted_weights_keep_the_names_of_the_checkpoint(tmp_path: Path) -> None:
    decoder = make_decoder(tmp_path, stored="F16")
    model = load_graph(decoder.exported / "graph.onnx")
    share_tied_head(model.graph)

    write_weights(model, Weights(Folder(decoder.checkpoint, is_checkpoint=True)), tmp_path / "decoder.data")

    assert set(decoder.weights) <= set(model.graph.initializers)


def test_memory_is_that_of_the_largest_tensor_not_of_the_model(tmp_path: Path) -> None:
    count, shape = 12, (512, 1024)
    (tmp_path / "w.bin").write_bytes(np.ones(count * shape[0] * shape[1], np.float16).tobytes())
    nbytes = shape[0] * shape[1] * 2
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="wide")
    emit = Emitter(graph, "n")
    for i in range(count):
        tensor = ir.ExternalTensor(
            "w.bin", i * nbytes, nbytes, ir.DataType.FLOAT16, shape=ir.Shape(shape), name=f"w{i}"
        )
        graph.initializers.add(ir.Value(name=f"w{i}", const_value=tensor))
        wide = emit("Cast", graph.initializers[f"w{i}"], to=ir.DataType.FLOAT)
        graph.outputs.append(emit("Relu", emit("Transpose", wide, perm=[1, 0])))
    graph.extend(emit.waiting())

    tracemalloc.start()
    try:
        written = write_weights(ir.Model(graph, ir_version=10), Weights(Folder(tmp_path)), tmp_path / "out.data")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    largest = 2 * nbytes  # in float32
    assert written.size == count * largest
    assert peak < 2.5 * largest  # converted, and laid out in the order of the transpose
