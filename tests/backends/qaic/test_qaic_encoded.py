"""Checkpoints that others quantized, in the device's form: 4 bits stay integers, the rest are floats, and all say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from played_device import ANSWER, Device, generate

from qeffbuild.actions import export as export_action
from qeffbuild.actions import fetch as fetch_action
from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.executor.work import Work
from qeffbuild.graph.decode import is_encoded
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.models import DEMO
from qeffbuild.signature import IoSignature
from tests.models.encoders import encode, plain_llama

PROMPTS = ([3, 1, 4, 1, 5, 9, 2], [27, 18], [11, 12, 13, 14, 15])
CASES = {
    "awq": (Form(), 14),
    "gptq act-order": (Form(sub_functions=True), 14),
    "pack-quantized with zeros": (Form(), 14),
    "gptq 8 bits": (Form(), 0),
    "float-quantized": (Form(sub_functions=True), 0),
}


def answers(folder: Path, values: dict[str, np.ndarray]) -> list[list[int]]:
    """What transformers says with the weights that the encoded ones stand for."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    said: dict[str, Any] = json.loads((folder / "config.json").read_text())
    said.pop("quantization_config")
    model = LlamaForCausalLM(LlamaConfig.from_dict(said)).float().eval()
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in values.items()}, strict=False)
    made = []
    for prompt in PROMPTS:
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(ANSWER):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        made.append(ids[len(prompt) :])
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_encoded_weights_say_on_the_device_what_they_stand_for(name: str, tmp_path: Path) -> None:
    form, integers = CASES[name]
    folder, fetch, export = tmp_path / "model", tmp_path / "fetch", tmp_path / "export"
    values = encode(plain_llama(tmp_path / "plain", DEMO), folder, name)
    fetch.mkdir()
    export.mkdir()
    asked = {"scale": "full", "allow_pickle": False, "trust_remote_code": False}
    fetch_action.run(Work(name="fetch", params=asked, inputs={}, leaves={"model": folder}, out=fetch))
    asked = {"dtype": "float32", "task": "auto", "trust_remote_code": False}
    export_action.run(Work(name="export", params=asked, inputs={"model": fetch}, leaves={"model": folder}, out=export))
    model = load_graph(export / "graph.onnx")

    signature = lower(model, IoSignature.load(export / "io.json"), form)
    assert is_encoded(model.graph)
    write_weights(model, Weights(Folder(export), Folder(folder, is_checkpoint=True)), tmp_path / "graph.data")
    device = Device(model, signature, 3, tmp_path)

    assert not is_encoded(model.graph)
    nodes = [*model.graph, *(node for function in model.functions.values() for node in function)]
    products = [node for node in nodes if node.op_type == "MatMulNBits"]
    assert len(products) == (integers // 2 if form.sub_functions else integers)
    assert not any("accuracy_level" in node.attributes for node in products)
    assert generate(device, PROMPTS, 4) == answers(folder, values)
