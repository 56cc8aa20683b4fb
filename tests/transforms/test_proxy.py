"""The model without its table of words and its head: embeddings in, hidden states out, on the device as in the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import chain
import numpy as np
import onnx_ir as ir
import pytest
import small_decoder as small
import torch
from played_device import Device

from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.errors import ModelError, SpecError
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.plan import Plan
from qeffbuild.signature import IoSignature
from qeffbuild.spec.types import BuildSpec

PROXY = {"name": "proxy"}
PROMPT = [3, 1, 4, 1, 5, 9]
FORMS = {
    "plain": (Form(), {}),
    "continuous": (Form(continuous_batching=True), {"batch_index": np.array([[0]])}),
    "several": (Form(num_logits_to_keep=True), {"num_logits_to_keep": np.zeros((3, 1), np.int64)}),
}


@pytest.fixture
def neutral(tmp_path: Path) -> tuple[small.SmallDecoder, Path]:
    """A decoder, and the folder of its neutral graph."""
    decoder, folder = small.SmallDecoder(), tmp_path / "export"
    folder.mkdir()
    model, signature = small.neutral_graph(decoder)
    save_graph(model, folder / "graph.onnx")
    signature.save(folder / "io.json")
    (folder / "export.json").write_text("{}")
    return decoder, folder


@pytest.mark.parametrize("kind", FORMS)
def test_the_head_makes_of_what_comes_out_what_the_whole_model_says(
    neutral: tuple[small.SmallDecoder, Path], tmp_path: Path, kind: str
) -> None:
    decoder, export = neutral
    form, more = FORMS[kind]
    out = chain.transformed(export, tmp_path / "transform", PROXY)
    model = load_graph(out / "graph.onnx")
    signature = lower(model, IoSignature.load(out / "io.json"), form)
    device = Device(model, signature, 1, tmp_path)

    rows = decoder.wte.weight[PROMPT].detach().numpy()[None]
    positions = np.arange(len(PROMPT))[None]
    hidden = device.session.run(
        ["hidden_states"], {"inputs_embeds": rows, "position_ids": positions, **more, **device.states}
    )[0]

    with torch.no_grad():
        said, wanted = decoder.head(torch.from_numpy(hidden[0])), decoder(torch.tensor(PROMPT))
    kept = 3 if kind == "several" else 1
    np.testing.assert_allclose(said, wanted[-kept:], rtol=1e-4, atol=1e-5)
    assert [tensor.name for tensor in signature.inputs][:2] == ["inputs_embeds", "position_ids"]
    assert signature.outputs[0].axes == ("batch_size", "num_logits_to_keep" if kept > 1 else 1, small.HIDDEN)


def test_neither_the_table_nor_the_head_is_in_the_graph(
    neutral: tuple[small.SmallDecoder, Path], tmp_path: Path
) -> None:
    out = chain.transformed(neutral[1], tmp_path / "transform", PROXY)

    names = set(load_graph(out / "graph.onnx").graph.initializers)
    assert "wpe.weight" in names
    assert not names & {"wte.weight", "head.weight"}


def test_words_that_are_read_elsewhere_too_are_refused(
    neutral: tuple[small.SmallDecoder, Path], tmp_path: Path
) -> None:
    model = load_graph(neutral[1] / "graph.onnx")
    ids = model.graph.inputs[0]
    doubled = ir.node("Add", [ids, ids])
    doubled.outputs[0].name = "doubled"
    model.graph.append(doubled)
    model.graph.outputs.append(doubled.outputs[0])
    save_graph(model, neutral[1] / "graph.onnx")

    with pytest.raises(ModelError, match="a Add reads the words as well"):
        chain.transformed(neutral[1], tmp_path / "transform", PROXY)


def test_the_plan_names_it_and_a_sampler_does_not_go_with_it(
    plan_of: Callable[..., Plan], spec_of: Callable[..., BuildSpec]
) -> None:
    words = ("model=gpt2", "backend=qaic", "transforms.proxy=true")

    assert plan_of(*words)["transform"].params == {"passes": [PROXY]}
    with pytest.raises(SpecError, match=r"transforms.include_sampler: there are no logits to choose by"):
        spec_of(*words, "transforms.include_sampler=true")
