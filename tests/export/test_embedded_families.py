"""Every family says the same in the form of the embedded backend, whose attention is fused where it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_families import DECODED, FAMILIES, ROWS, TOLERANCE, cases, relative_error

from qeffbuild.backends.onnxruntime.lower import lower
from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.package import Package

OWN = {"gptj", "codegen", "mpt", "falcon", "gpt_oss"}  # their own code works out attention
WINDOWS = {
    "gemma2": {"causal, rotary inside": 3, "window 8, rotary inside": 3},
    "gemma3_text": {"causal, rotary inside": 3, "window 8, rotary inside": 6},
    "mistral": {"window 8, rotary inside": 6},
}
FUSED = {
    "llama": {"attention_packed": 6, "QuickGelu": 6, "RMSNormalization": 1, "SkipSimplifiedLayerNormalization": 12}
    | {"products_of_asked_tokens": 4},
    "gemma2": {"attention_packed": 6, "FastGelu": 6, "RMSNormalization": 13, "SkipSimplifiedLayerNormalization": 12}
    | {"products_of_asked_tokens": 4},
    "phi": {"FastGelu": 6, "SkipLayerNormalization": 6, "products_of_asked_tokens": 3},
    "mpt": {"Gelu": 6, "SkipLayerNormalization": 12, "products_of_asked_tokens": 3},
}
QUICK = ("llama", "gemma2", "phi")  # one plain, one with windows and caps, one that turns a part of each head


@pytest.mark.parametrize("model_type", cases(QUICK))
def test_a_lowered_model_says_what_pytorch_says(exported, tmp_path, model_type):
    made = exported(model_type, **FAMILIES[model_type])
    rows = [[*row, *DECODED] for row in ROWS]
    lengths = [len(row) for row in ROWS]
    wanted = [made.reference(row)[length - 1 :] for row, length in zip(rows, lengths, strict=True)]

    session, lowered = opened(made, tmp_path)
    together = session.allocate("decoder", 2, 40)
    said = [step(session, together, ROWS, [0, 0])]
    for place, token in enumerate(DECODED):
        said.append(step(session, together, [[token]] * 2, [length + place for length in lengths]))
    chunked = session.allocate("decoder", 2, 40)
    for start in range(0, lengths[0], 5):
        last = step(session, chunked, [row[start : start + 5] for row in ROWS], [start, start])

    for row in range(2):
        ours = np.stack([logits[row] for logits in said])
        assert relative_error(ours, wanted[row]) < TOLERANCE
        assert ours.argmax(-1).tolist() == wanted[row].argmax(-1).tolist()
    assert relative_error(last[0], wanted[0][0]) < TOLERANCE
    attention = lowered["attention"]
    assert bool(attention["fused"]) == (model_type not in OWN) == (not attention["left_portable"])
    assert attention["fused"] == WINDOWS.get(model_type, attention["fused"])
    assert lowered["fused"].items() >= FUSED.get(model_type, {}).items()


def opened(made: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    model = load_graph(made.folder / "graph.onnx")
    lowered = lower(model, made.signature, attention="auto")
    checkpoint = Folder(made.folder.parent, is_checkpoint=True)
    write_weights(model, Weights(Folder(made.folder), checkpoint), folder / "decoder.data")
    save_graph(model, folder / "decoder.onnx")
    graph = {"file": "decoder.onnx", "signature": made.signature.as_json(), **lowered}
    return open_session(Package(folder, {"graphs": {"decoder": graph}}), threads=1), lowered


def step(session: Any, states: Any, tokens: Any, starts: list[int]) -> np.ndarray:
    """Logits of each row's last token."""
    width = max(map(len, tokens))
    ids, positions = np.zeros((len(tokens), width), np.int64), np.full((len(tokens), width), -1)
    for row, (said, start) in enumerate(zip(tokens, starts, strict=True)):
        ids[row, : len(said)] = said
        positions[row, : len(said)] = range(start, start + len(said))
    last = np.array([[max(len(said) - 1, 0)] for said in tokens])
    feed = {"input_ids": ids, "position_ids": positions, "logits_index": last}
    return session.run("decoder", feed, states)["logits"][:, 0].copy()
