"""Real exports in the device's form: their greedy tokens are those of transformers, in every form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import small_decoder as small
import torch
from by_hand import exported_tiny
from played_device import ANSWER, Device, generate

from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.cloud_ai_100.norms import NAME
from qeffbuild.cloud_ai_100.opset17 import OPSET
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.signature import IoSignature

PROMPTS = ([3, 1, 4, 1, 5, 9, 2], [27, 18], [11, 12, 13, 14, 15])
EACH = {
    "plain": (Form(), 3, {}),
    "continuous": (Form(continuous_batching=True), 5, {"batch_index": np.array([[4], [0], [2]])}),
    "functions": (Form(sub_functions=True), 3, {}),
    "lengths": (Form(comp_ctx_lengths=True), 3, {"comp_ctx_lengths": np.zeros(small.CONTEXT - 1, np.int64)}),
}


@pytest.fixture(scope="module", params=["gpt2", "llama", "mpt", "gemma2", "mixtral"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return exported_tiny(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def truth(exported: tuple[Path, Path]) -> list[list[int]]:
    return answers(exported[0])


def answers(fetch: Path) -> list[list[int]]:
    """What transformers goes on with after each prompt."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(fetch / "model", dtype=torch.float32).eval()

    def greedy(prompt: list[int]) -> list[int]:
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(ANSWER):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]

    return [greedy(prompt) for prompt in PROMPTS]


def said_on_the_device(fetch: Path, export: Path, kind: str, room: Path) -> list[list[int]]:
    form, rows, more = EACH[kind]
    model = load_graph(export / "graph.onnx")
    neutral = IoSignature.load(export / "io.json")
    signature = lower(model, neutral, form)

    weights = Weights(Folder(export), Folder(fetch / "model", is_checkpoint=True))
    write_weights(model, weights, room / "graph.data")
    return generate(Device(model, signature, rows, room), PROMPTS, 4, **more)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EACH)
def test_a_real_model_says_on_the_device_what_it_says_in_pytorch(
    exported: tuple[Path, Path], truth: list[list[int]], kind: str, tmp_path: Path
) -> None:
    assert said_on_the_device(*exported, kind, tmp_path) == truth


@pytest.mark.slow
def test_layers_that_read_one_weight_can_be_functions(tmp_path: Path) -> None:
    fetch, export = exported_tiny(tmp_path, "gemma4_text")  # one table for all layers

    assert said_on_the_device(fetch, export, "functions", tmp_path) == answers(fetch)


@pytest.mark.slow
def test_a_real_graph_keeps_its_weights_where_they_are(exported: tuple[Path, Path], tmp_path: Path) -> None:
    _, export = exported
    model = load_graph(export / "graph.onnx")

    lower(model, IoSignature.load(export / "io.json"), Form())
    save_graph(model, tmp_path / "graph.onnx")

    locations = {
        str(value.const_value.location)
        for value in load_graph(tmp_path / "graph.onnx").graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    assert model.opset_imports[""] == OPSET
    assert "model.safetensors" in locations
    assert (tmp_path / "graph.onnx").stat().st_size < 200_000
    assert json.loads((export / "io.json").read_text())["states"]


@pytest.mark.slow
def test_norms_are_calls_of_the_operator_that_the_compiler_knows(exported: tuple[Path, Path]) -> None:
    fetch, export = exported
    model = load_graph(export / "graph.onnx")

    lower(model, IoSignature.load(export / "io.json"), Form())

    config = json.loads((fetch / "model" / "config.json").read_text())
    in_a_layer = {"llama": 2, "mixtral": 2, "gemma2": 4}.get(config["model_type"])  # the others subtract a mean
    calls = [node for node in model.graph if node.op_type == NAME]
    assert len(calls) == (0 if in_a_layer is None else in_a_layer * config["num_hidden_layers"] + 1)
    assert all(node.attributes["epsilon"].as_float() == pytest.approx(config["rms_norm_eps"]) for node in calls)
    assert all(node.op_identifier() in model.functions for node in calls)
