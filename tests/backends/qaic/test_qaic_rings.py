"""Retained states as long as a sliding window: the tokens are PyTorch's long after the window is full."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from by_hand import exported_tiny
from played_device import ANSWER, Device, generate

from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.cloud_ai_100.rings import with_rings
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.signature import IoSignature, State

WINDOW, CONTEXT = 16, 32  # of a tiny model, and twice as long
PROMPTS = ([*range(3, 28)], [27, 18, 2], [*range(40, 23, -1)])
EACH = {
    "chunks shorter than the window": (Form(rings_below=CONTEXT), 3, 5, {}),
    "chunks longer than the window": (Form(rings_below=CONTEXT), 3, 20, {}),
    "continuous": (
        Form(rings_below=CONTEXT, continuous_batching=True),
        5,
        4,
        {"batch_index": np.array([[4], [0], [2]])},
    ),
    "a shorter compute context": (
        Form(rings_below=CONTEXT, comp_ctx_lengths=True),
        3,
        4,
        {"comp_ctx_lengths": np.zeros(CONTEXT - 1, np.int64)},
    ),
}


@pytest.fixture(scope="module", params=["gpt_oss", "gemma2"])  # attention of its own, with sinks; ours
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return exported_tiny(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def truth(exported: tuple[Path, Path]) -> list[list[int]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(exported[0] / "model", dtype=torch.float32).eval()
    answers = []
    for prompt in PROMPTS:
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(ANSWER):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        answers.append(ids[len(prompt) :])
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("kind", EACH)
def test_a_ring_says_what_the_whole_context_says(
    exported: tuple[Path, Path], truth: list[list[int]], kind: str, tmp_path: Path
) -> None:
    fetch, export = exported
    form, rows, chunk, more = EACH[kind]
    model = load_graph(export / "graph.onnx")
    signature = lower(model, IoSignature.load(export / "io.json"), form)

    write_weights(model, Weights(Folder(export), Folder(fetch / "model", is_checkpoint=True)), tmp_path / "graph.data")
    device = Device(model, signature, rows, tmp_path, CONTEXT)

    assert [state.axes[2] for state in signature.states] == ["sliding_window"] * 2 + ["ctx_len"] * 2
    assert {state.shape[2] for state in device.states.values()} == {WINDOW, CONTEXT}
    assert generate(device, PROMPTS, chunk, **more) == truth


def _signature(*windows: int | None) -> IoSignature:
    axes = ("batch_size", 2, "ctx_len", 8)
    states = [
        State(name=f"k.{n}", output=f"k.{n}_RetainedState", dtype="float32", axes=axes, layer=n, kind="key", window=w)
        for n, w in enumerate(windows)
    ]
    return IoSignature(graph="decoder", inputs=(), outputs=(), states=tuple(states))


@pytest.mark.parametrize(
    ("windows", "lengths"),
    [
        ((4, None), ["sliding_window", "ctx_len"]),
        ((16, None), ["ctx_len", "ctx_len"]),  # as long as the context
        ((4, 4), ["ctx_len", "ctx_len"]),  # nobody would say how long the context is
        ((4, 8, None), ["ctx_len", "ctx_len", "ctx_len"]),  # one symbol, two sizes
        ((4, 32), ["sliding_window", "ctx_len"]),
    ],
)
def test_states_are_rings_where_one_window_is_shorter_than_the_context(
    windows: tuple[int | None, ...], lengths: list[str]
) -> None:
    made = with_rings(_signature(*windows), 16)

    assert [state.axes[2] for state in made.states] == lengths
    assert with_rings(_signature(*windows), None) == _signature(*windows)
