"""A graph that computes what its model computes is let through; one that does not stops the build by its layer's name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx_ir as ir
import pytest

from qeffbuild.backends.onnxruntime import lower
from qeffbuild.errors import StepError
from qeffbuild.executor.work import Work
from qeffbuild.gate import stream
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.package import Package


def _weights_of(folder: Path, layer: int, part: str) -> str:
    names = (value.name for value in load_graph(folder / "graph.onnx").graph.initializers.values())
    return next(name for name in names if f".{layer}." in name and part in name)


def made(folder):
    folder.mkdir()
    return folder


def test_a_package_says_how_near_its_graph_is_to_pytorch(demo):
    manifest = Package.open(demo.built.package).manifest

    found = manifest["gate"]["lower"]
    assert found["limits"] == {"error": 1e-3}
    assert found["prompts"] == 2
    assert found["at_most"] == {"tokens": 17, "error": 1e-4, "noise": 1e-4, "kl": 1e-6, "agreement": 1.0}


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("edge", ["export", "lower"])
def test_a_wrong_weight_stops_the_build_and_its_layer_is_named(demo, edge, layer, exchanged, tmp_path):
    right = demo.folder(edge)
    one, other = (_weights_of(right, number, "mlp.c_fc.weight") for number in (layer, 3))
    wrong = exchanged(right, tmp_path / "graph", one, other)

    with pytest.raises(StepError) as caught:
        demo.gate(wrong, tmp_path, "export", edge=edge)

    assert caught.value.kind == "step.gate"
    assert caught.value.message.startswith(f"{edge}: the largest difference from PyTorch is")
    assert f"begins in transformer.h.{layer}, layer {layer} of 4" in caught.value.message
    assert not (tmp_path / "gate.json").exists()


def test_a_wrong_table_of_words_differs_before_the_first_layer(demo, tmp_path):
    right = demo.folder("lower")
    model = load_graph(right / "graph.onnx")
    gather = next(node for node in model.graph if node.op_type == "Gather" and node.inputs[1].name == "input_ids")
    shutil.copytree(right, tmp_path / "graph")
    negated = ir.node("Neg", [gather.outputs[0]])
    gather.outputs[0].replace_all_uses_with(negated.outputs[0])
    negated.replace_input_with(0, gather.outputs[0])
    negated.outputs[0].name = "negated"
    model.graph.insert_after(gather, negated)
    (tmp_path / "graph" / "graph.onnx").unlink()
    save_graph(model, tmp_path / "graph" / "graph.onnx")

    with pytest.raises(StepError) as caught:
        demo.gate(tmp_path / "graph", tmp_path, "export")

    assert "begins before the first layer" in caught.value.message


def test_a_quantized_graph_has_a_budget_and_a_wrong_one_is_still_found(demo_int8, exchanged, tmp_path):
    right = demo_int8.folder("quantize")
    names = [value.name for value in load_graph(right / "graph.onnx").graph.initializers.values()]
    numbers = {layer: next(n for n in names if f".{layer}.mlp.c_fc" in n and "numbers" in n) for layer in (1, 3)}
    wrong = exchanged(right, tmp_path / "graph", numbers[1], numbers[3])

    demo_int8.gate(right, tmp_path, "quantize", "export", edge="quantize")
    with pytest.raises(StepError) as caught:
        demo_int8.gate(wrong, tmp_path, "quantize", "export", edge="quantize")

    said = json.loads((tmp_path / "gate.json").read_text())
    assert said["limits"] == {"noise": 0.5, "kl": 0.1}
    assert 0 < said["figures"]["kl"] < 0.01
    assert "transformer.h.1.mlp.c_fc.weight: a block is" in caught.value.message


def test_a_table_of_integers_passes_with_the_weights_that_are_quantized(demo_int8, tmp_path):
    words = {"attention": "auto", "recurrence": "chunked", "embedding_bits": 8}
    small, inputs = made(tmp_path / "lower"), {"graph": demo_int8.folder("quantize")}
    lower.run(Work(name="lower", params=words, inputs=inputs, leaves={}, out=small))

    demo_int8.gate(small, tmp_path, "quantize", "export")

    assert json.loads((small / "lower.json").read_text())["tables"] != {}
    assert 0 < json.loads((tmp_path / "gate.json").read_text())["figures"]["kl"] < 0.01


def test_a_table_of_integers_in_an_exact_graph_is_what_rounding_may_do(tiny, tmp_path):
    plain = tiny("model.model_type=llama")
    words = {"attention": "auto", "recurrence": "chunked", "embedding_bits": 4}
    inputs = {"graph": plain.folder("export")}
    lower.run(Work(name="lower", params=words, inputs=inputs, leaves={}, out=made(tmp_path / "lower")))

    plain.gate(tmp_path / "lower", tmp_path, "export")

    said = json.loads((tmp_path / "gate.json").read_text())
    assert said["limits"] == {"noise": 0.65, "kl": 0.5}
    assert said["figures"]["noise"] > 0.001


def test_the_tolerance_of_a_quantized_graph_is_of_what_is_usual(demo_int8, tmp_path):
    with pytest.raises(StepError) as caught:
        demo_int8.gate(demo_int8.folder("quantize"), tmp_path, "quantize", "export", edge="quantize", tolerance=1e-9)

    assert "the usual difference" in caught.value.message
    assert "(at most 1e-09)" in caught.value.message


def test_the_tolerance_is_the_specs_own(demo, tmp_path):
    with pytest.raises(StepError) as caught:
        demo.gate(demo.folder("lower"), tmp_path, "export", tolerance=1e-9)

    assert "(at most 1e-09)" in caught.value.message


def test_a_graph_in_many_pieces_says_what_the_whole_one_says(demo, tmp_path, monkeypatch):
    figures = []
    for most in (stream.MOST_WEIGHTS, 1):
        monkeypatch.setattr(stream, "MOST_WEIGHTS", most)
        demo.gate(demo.folder("lower"), tmp_path, "export")
        figures.append(json.loads((tmp_path / "gate.json").read_text())["figures"])

    assert figures[1]["error"] == pytest.approx(figures[0]["error"], rel=1)
    assert figures[1]["agreement"] == 1.0
