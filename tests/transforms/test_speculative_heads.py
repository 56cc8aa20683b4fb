"""Heads that guess further ahead: each gives what its projections and the model's head give in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import chain
import numpy as np
import pytest
import small_decoder as small
import torch
from played_device import Device
from safetensors.numpy import save_file

from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.errors import ModelError
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.plan import Plan
from qeffbuild.signature import IoSignature

ASKED = {"name": "speculative_heads"}
PROMPT = [3, 1, 4, 1, 5, 9]
HEADS, BLOCKS = 3, 2


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    model, signature = small.neutral_graph(small.SmallDecoder())
    save_graph(model, folder / "graph.onnx")
    signature.save(folder / "io.json")
    (folder / "export.json").write_text("{}")
    return folder


def heads_file(folder: Path, width: int = small.HIDDEN) -> Path:
    random = np.random.default_rng(0)
    tensors = {}
    for head in range(HEADS):
        for block in range(BLOCKS):
            name = f"projections.{head}.{block}.linear"
            tensors[f"{name}.weight"] = random.standard_normal((width, width), np.float32) * 0.2
            tensors[f"{name}.bias"] = random.standard_normal(width, np.float32) * 0.1
    save_file(tensors, folder / "heads.safetensors")
    return folder / "heads.safetensors"


def test_every_head_says_what_its_projections_say_in_pytorch(export: Path, tmp_path: Path) -> None:
    file, decoder = heads_file(tmp_path), small.SmallDecoder()
    out = chain.transformed(export, tmp_path / "transform", ASKED, speculative_heads=file)
    model = load_graph(out / "graph.onnx")
    signature = lower(model, IoSignature.load(out / "io.json"), Form(num_logits_to_keep=True))
    write_weights(model, Weights(Folder(out), Folder(export)), tmp_path / "graph.data")
    device = Device(model, signature, 1, tmp_path)

    logits = device.run([PROMPT], [[*range(len(PROMPT))]], num_logits_to_keep=np.zeros((4, 1), np.int64))

    assert signature.outputs[0].axes == ("batch_size", "num_logits_to_keep", HEADS + 1, small.VOCAB)
    np.testing.assert_allclose(logits[0], by_pytorch(decoder, file)[-4:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def by_pytorch(decoder: small.SmallDecoder, file: Path) -> np.ndarray:
    """[tokens, 1 + heads, words]."""
    from safetensors.torch import load_file

    stored, seen = load_file(file), []
    decoder.head.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    found = [decoder(torch.tensor(PROMPT))]
    for head in range(HEADS):
        hidden = seen[0]
        for block in range(BLOCKS):
            name = f"projections.{head}.{block}.linear"
            inner = hidden @ stored[f"{name}.weight"].T + stored[f"{name}.bias"]
            hidden = hidden + torch.nn.functional.silu(inner)
        found.append(hidden @ decoder.head.weight.T)
    return torch.stack(found, dim=1).numpy()


@pytest.mark.parametrize(
    ("width", "said"), [(small.HIDDEN * 2, r"head 0 is \[64, 64\], the model is 32 wide"), (0, "no block of a head")]
)
def test_heads_of_another_model_are_refused(export: Path, tmp_path: Path, width: int, said: str) -> None:
    file = heads_file(tmp_path, width or 4)
    if not width:
        save_file({"lm_head.weight": np.zeros((2, 2), np.float32)}, file)

    with pytest.raises(ModelError, match=said):
        chain.transformed(export, tmp_path / "transform", ASKED, speculative_heads=file)


def test_the_files_bytes_are_part_of_the_plan(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    file = heads_file(tmp_path)

    plan = plan_of("model=gpt2", "backend=qaic", f"transforms.speculative_heads={file}")

    assert plan["transform"].params == {"passes": [ASKED]}
    assert [(leaf.name, leaf.path) for leaf in plan["transform"].leaves] == [("speculative_heads", str(file))]
