"""Models of an encoder and a decoder are held against PyTorch as others are, and the layer is named in either half."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qeffbuild.errors import StepError
from qeffbuild.graph.files import load_graph
from qeffbuild.package import Package

T5 = ("model.model_type=t5",)
WHISPER = ("model.model_type=whisper",)
LLAVA = ("model.model_type=llava", "specialization.img_size=16")
TOGETHER = (*LLAVA, "model.kv_offload=false", "specialization.max_num_images=2")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(T5, id="text"),
        pytest.param(WHISPER, marks=pytest.mark.slow, id="speech"),
        pytest.param(LLAVA, id="images"),
        pytest.param(TOGETHER, marks=pytest.mark.slow, id="images in one graph"),
    ],
)
def test_a_package_says_what_the_gate_of_its_graphs_has_found(tiny, words):
    manifest = Package.open(tiny(*words).built.package).manifest

    found = manifest["gate"]["lower"]
    assert found["limits"] == {"error": 1e-3}
    assert found["at_most"]["error"] == 1e-4
    assert found["at_most"]["agreement"] == 1.0


@pytest.mark.parametrize(
    ("words", "graph", "part", "named"),
    [
        pytest.param(T5, "encoder.onnx", "encoder.block.{}.layer.1.DenseReluDense.wi", "encoder.block.0", id="encoder"),
        pytest.param(T5, "graph.onnx", "decoder.block.{}.layer.2.DenseReluDense.wi", "decoder.block.0", id="decoder"),
        pytest.param(LLAVA, "vision.onnx", "layers.{}.mlp.fc1.weight", "model.vision_tower", id="vision"),
        pytest.param(LLAVA, "graph.onnx", "layers.{}.mlp.up_proj", "model.language_model.layers.0", id="language"),
    ],
)
def test_a_wrong_weight_is_found_in_the_half_where_it_is(tiny, words, graph, part, named, exchanged, tmp_path):
    built = tiny(*words)
    right = built.folder("lower")
    one, other = (_weight(right / graph, part.format(layer)) for layer in (0, 1))
    wrong = exchanged(right, tmp_path / "graph", one, other, graph)

    with pytest.raises(StepError) as caught:
        built.gate(wrong, tmp_path, "export")

    assert f"begins in {named}" in caught.value.message
    assert "layer 0 of " in caught.value.message


def test_a_quantized_encoder_and_decoder_have_a_budget(tiny, tmp_path):
    built = tiny(*T5, "quantization=int8")

    built.gate(built.folder("lower"), tmp_path, "quantize", "export")

    said = json.loads((tmp_path / "gate.json").read_text())
    assert said["limits"] == {"noise": 0.5, "kl": 0.1}


def _weight(graph: Path, part: str) -> str:
    names = (value.name for value in load_graph(graph).graph.initializers.values())
    return next(name for name in names if name is not None and part in name)
