"""A package with a second copy of its weights, as this processor reads them: the same numbers, whoever opens it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from decoder_steps import build
from neutral_decoder import Decoder, make_decoder
from onnx import TensorProto, helper, numpy_helper

from qeffbuild.backends.onnxruntime.prepack import prepack
from qeffbuild.backends.onnxruntime.session import open_session

ort = pytest.importorskip("onnxruntime")
ROWS, COLUMNS, BLOCK = 256, 512, 128


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A product large enough to be stored beside its graph."""
    random = np.random.default_rng(0)
    numbers = random.integers(0, 256, (ROWS, COLUMNS // BLOCK, BLOCK), dtype=np.uint8)
    scales = random.random(ROWS * COLUMNS // BLOCK).astype(np.float32)
    node = helper.make_node(
        "MatMulNBits", ["x", "numbers", "scales"], ["y"], domain="com.microsoft", K=COLUMNS, N=ROWS, bits=8,
        block_size=BLOCK, accuracy_level=4,
    )  # fmt: skip
    ends = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["m", size])] for name, size in ENDS)
    stored = [numpy_helper.from_array(array, name) for name, array in (("numbers", numbers), ("scales", scales))]
    graph = helper.make_graph([node], "graph", *ends, stored)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    )
    model.ir_version = 10
    path = tmp_path / "decoder.onnx"
    onnx.save(model, path, save_as_external_data=True, location="decoder.data", size_threshold=1024)
    return path


ENDS = (("x", COLUMNS), ("y", ROWS))


def answer(graph: Path) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((1, COLUMNS)).astype(np.float32)
    return ort.InferenceSession(graph).run(None, {"x": x})[0]


def copies(graph: Path) -> list[onnx.StringStringEntryProto]:
    model = onnx.load(graph, load_external_data=False)
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    return [entry for entry in entries if entry.key.startswith("prepacked")]


def test_a_second_copy_is_added_behind_the_weights_and_gives_the_same_numbers(product: Path) -> None:
    wanted, data = answer(product), product.with_suffix(".data")
    before = data.read_bytes()

    said = prepack(product)

    assert said["weights"] == len(copies(product)) == 1
    assert said["onnxruntime"] == ort.__version__
    assert data.read_bytes()[: len(before)] == before
    assert said["bytes"] == data.stat().st_size - len(before) > ROWS * COLUMNS
    assert sorted(path.name for path in product.parent.iterdir()) == ["decoder.data", "decoder.onnx"]
    np.testing.assert_array_equal(answer(product), wanted)


def test_the_copy_is_what_the_session_reads(product: Path) -> None:
    wanted = answer(product)
    prepack(product)
    place, length, _ = map(int, copies(product)[0].value.split("|")[1].split(";"))
    with product.with_suffix(".data").open("r+b") as file:
        file.seek(place)
        file.write(bytes(length))

    assert (answer(product) != wanted).any()


def test_a_copy_that_another_processor_made_is_not_read(product: Path) -> None:
    """Its name is a digest of other bytes than those that packing gives here."""
    wanted = answer(product)
    prepack(product)
    model = onnx.load(product, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key.startswith("prepacked"):
                name, _, pieces = entry.value.partition("|")
                place, length, checksum = pieces.split(";")
                entry.value = f"{name}1|{int(place) + 64};{int(length) - 64};{checksum}"
    onnx.save(model, product)

    np.testing.assert_array_equal(answer(product), wanted)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return make_decoder(tmp_path_factory.mktemp("decoder"))


def test_a_package_says_what_was_added_and_verifies(decoder: Decoder, tmp_path: Path) -> None:
    words = {"method": "int8", "bits": 8, "block_size": 16, "symmetric": True, "keep": []}
    plain = build(decoder, tmp_path / "plain", quantization=words, prefill=True)

    package = build(decoder, tmp_path / "packed", quantization=words, prefill=True, prepack=True)

    said = package.manifest["graphs"]["decoder"]["prepacked"]
    assert said["weights"] > 0
    assert "prepacked" not in plain.manifest["graphs"]["decoder"]
    feed = {
        "input_ids": np.array([list(range(30))]),
        "position_ids": np.arange(30)[None],
        "logits_index": np.array([[29]]),
    }
    found = []
    for each in (plain, package):
        session = open_session(each, threads=1)
        states = session.allocate("decoder", 1, 32)
        found.append(session.run("decoder", feed, states)["logits"].copy())
        one = {"input_ids": np.array([[3]]), "position_ids": np.array([[30]]), "logits_index": np.array([[0]])}
        found.append(session.run("decoder", one, states)["logits"].copy())
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])
