"""States that are no keys and values: retained like these where no run is longer than a chunk, else refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from by_hand import exported_tiny
from played_device import ANSWER, Device, generate

from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.errors import ModelError
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.hoist import BEGIN, END, is_mark
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.signature import IoSignature

PROMPTS = ([3, 1, 4, 1, 5, 9, 2], [27, 18], [11, 12, 13, 14, 15])
CONTINUOUS = {"batch_index": np.array([[4], [0], [2]])}
# Family, its form, slots, tokens of a chunk, further inputs, and the kinds of its states.
EACH = {
    "convolutions beside attention": ("lfm2", Form(longest_run=1), 3, 1, {}, {"conv", "key", "value"}),
    "convolutions of a run": ("lfm2", Form(longest_run=256), 3, 4, {}, {"conv", "key", "value"}),
    "rows that come and go": ("lfm2", Form(longest_run=1, continuous_batching=True), 5, 1, CONTINUOUS, None),
    "rows that come and go by runs": ("mamba2", Form(longest_run=16, continuous_batching=True), 5, 3, CONTINUOUS, None),
    "no attention at all": ("mamba", Form(longest_run=1), 3, 1, {}, {"conv", "recurrent"}),
    "decays of single elements": ("mamba", Form(longest_run=64), 3, 5, {}, {"conv", "recurrent"}),
    "the delta rule": ("qwen3_next", Form(longest_run=32), 3, 4, {}, {"conv", "recurrent", "key", "value"}),
    "a decay for each key": ("kimi_linear", Form(longest_run=16), 3, 16, {}, None),
    "the keys of an indexer": ("deepseek_v32", Form(), 3, 3, {}, {"indexer_keys", "key", "value"}),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """exported(model_type) -> folders of fetch and export for a tiny random model, made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def once(model_type: str) -> tuple[Path, Path]:
        if model_type not in made:
            made[model_type] = exported_tiny(tmp_path_factory.mktemp(model_type), model_type)
        return made[model_type]

    return once


@pytest.mark.slow
@pytest.mark.parametrize("case", EACH)
def test_what_is_carried_from_token_to_token_stays_on_the_device(exported, case, tmp_path):
    model_type, form, rows, chunk, more, kinds = EACH[case]
    fetch, export = exported(model_type)
    model = load_graph(export / "graph.onnx")
    signature = lower(model, IoSignature.load(export / "io.json"), form)

    assert not any(is_mark(node, BEGIN | END) for node in model.graph)
    assert kinds in (None, {state.kind for state in signature.states})
    assert {state.output for state in signature.states} <= {value.name for value in model.graph.outputs}
    write_weights(model, Weights(Folder(export), Folder(fetch / "model", is_checkpoint=True)), tmp_path / "graph.data")
    device = Device(model, signature, rows, tmp_path)
    assert generate(device, PROMPTS, chunk, **more) == [greedy(fetch, prompt) for prompt in PROMPTS]


def greedy(fetch: Path, prompt: list[int]) -> list[int]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(fetch / "model", dtype=torch.float32).eval()
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(ANSWER):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "found", "move"),
    [
        ("lfm2", "past_conv.0 passes from token to token by a loop", "specialization.prefill_seq_len=256"),
        ("mamba2", "past_conv.0 passes from token to token by a loop", "specialization.prefill_seq_len=64"),
        ("reformer", "past_token.0 is the text itself", "backend=onnxruntime"),
    ],
)
def test_a_form_that_the_compiler_does_not_have_is_named(exported, model_type, found, move):
    _, export = exported(model_type)

    with pytest.raises(ModelError) as raised:
        lower(load_graph(export / "graph.onnx"), IoSignature.load(export / "io.json"), Form())

    assert (raised.value.kind, found in raised.value.message) == ("onnx.unsupported", True)
    assert move in str(raised.value.hint)
