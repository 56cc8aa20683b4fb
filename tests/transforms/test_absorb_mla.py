"""Latent attention absorbed: the same answers, states under their usual names, nothing made as long as the context."""

from __future__ import annotations

import json
from pathlib import Path

import chain
import pytest
from played_device import ANSWER, Device, generate
from small_decoder import CONTEXT

from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.errors import ModelError
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.signature import IoSignature

ABSORB = {"name": "absorb_mla"}
PROMPTS = ([3, 1, 4, 1, 5, 9, 2], [27, 18], [11, 12, 13, 14, 15])


@pytest.fixture(scope="module", params=["deepseek_v2", "deepseek_v3"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The folders of fetch, export and transform."""
    root = tmp_path_factory.mktemp(request.param)
    fetch, export = chain.exported(request.param, root)
    return fetch, export, chain.transformed(export, root / "transform", ABSORB)


@pytest.mark.slow
def test_answers_are_pytorchs_with_the_states_that_latents_need(
    family: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    fetch, _, absorbed = family
    config = json.loads((fetch / "model" / "config.json").read_text())
    kept = {state.name: state.axes[1:] for state in IoSignature.load(absorbed / "io.json").states}

    package = chain.packaged(fetch, absorbed, tmp_path)

    widths = {"compressed_kv": config["kv_lora_rank"], "k_pe": config["qk_rope_head_dim"]}
    assert kept == {f"{name}.{layer}": (1, "ctx_len", widths[name]) for layer in range(2) for name in widths}
    assert chain.answers(package) == chain.by_pytorch(chain.reference(fetch))


@pytest.mark.slow
def test_answers_are_pytorchs_on_the_device(family: tuple[Path, Path, Path], tmp_path: Path) -> None:
    fetch, _, absorbed = family
    model = load_graph(absorbed / "graph.onnx")
    signature = lower(model, IoSignature.load(absorbed / "io.json"), Form())
    write_weights(
        model, Weights(Folder(absorbed), Folder(fetch / "model", is_checkpoint=True)), tmp_path / "graph.data"
    )

    device = Device(model, signature, 3, tmp_path, CONTEXT)

    truth = chain.by_pytorch(chain.reference(fetch), PROMPTS)
    assert generate(device, PROMPTS, 4) == [answer[:ANSWER] for answer in truth]


@pytest.mark.slow
def test_nothing_is_made_for_every_slot_and_head(family: tuple[Path, Path, Path]) -> None:
    _, export, absorbed = family
    found = []
    for folder in (export, absorbed):
        graph = load_graph(folder / "graph.onnx").graph
        shapes = [value.shape for node in graph for value in node.outputs if value.shape is not None]
        found.append([shape for shape in shapes if len(shape) == 4 and shape[1] == 8 and str(shape[2]) == "ctx_len"])

    assert found[0]
    assert not found[1]


@pytest.mark.slow
def test_a_model_without_latents_is_refused(tmp_path: Path) -> None:
    _, export = chain.exported("llama", tmp_path)

    with pytest.raises(ModelError, match="no layer of this model keeps latents"):
        chain.transformed(export, tmp_path / "transform", ABSORB)
