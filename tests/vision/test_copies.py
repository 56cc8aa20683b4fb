"""A vision part of copies says what PyTorch's says, also where a layer's number decides what it attends to."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import small_models
import torch
import transformers

from qeffbuild.export import image_text
from qeffbuild.export.vision import Picture
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.ops import lower_portable
from qeffbuild.models import read_facts
from qeffbuild.models.images import blank, processed
from qeffbuild.models.processor import load_processor

SIZE = (28, 40)
DEPTHS = {
    # Features are those of the last layer but one.
    "llava": ({"num_hidden_layers": 7}, (7, 2)),
    # Layers 2 and 5 attend to all of an image, the others within windows.
    "qwen2_5_vl": ({"depth": 7, "fullatt_block_indexes": [2, 5]}, (7, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", DEPTHS)
def test_a_deep_vision_part_is_made_of_copies_and_agrees_with_pytorch(family, tmp_path):
    changes, counts = DEPTHS[family]
    model = _deep(small_models.write(tmp_path, family), changes)
    facts = json.loads(json.dumps(read_facts(tmp_path, task="image-text").as_json()))
    processor = load_processor(tmp_path, family)
    out = tmp_path / "out"
    out.mkdir()

    report = image_text.export(facts, processor, out, img_size=SIZE)

    assert (report.vision_layers, report.vision_layers_traced, report.vision_all_layers_because) == (*counts, None)
    picture = Picture.of(processed(processor, blank(SIZE)), model)
    pixels = torch.sin(torch.arange(picture.pixels.numel()) ** 1.1 / 7).reshape(picture.pixels.shape)
    with torch.no_grad():
        expected = model.get_image_features(pixels, **picture.geometry, return_dict=True).pooler_output
    expected = torch.cat([part.reshape(-1, part.shape[-1]) for part in expected])
    save_graph(lower_portable(load_graph(out / "vision.onnx")), tmp_path / "lowered.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "lowered.onnx", providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"pixel_values": pixels.numpy()})
    np.testing.assert_allclose(made[0], expected.numpy(), atol=1e-4)


def _deep(folder, changes):
    """The same model with more layers in its vision part."""
    said = json.loads((folder / "config.json").read_text())
    said["vision_config"] |= changes
    (folder / "config.json").write_text(json.dumps(said))
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    for path in folder.glob("*.safetensors"):
        path.unlink()
    model.save_pretrained(folder)
    return model
