"""A Whisper in one graph: a run with sound fills the cross cache, runs with one frame read it; tokens as in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qeffbuild.cloud_ai_100 import lower
from qeffbuild.executor.work import Work
from qeffbuild.export import tasks
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.models import DEMO, read_facts
from qeffbuild.models.tiny import write_tiny
from qeffbuild.signature import IoSignature

FORM = {"continuous_batching": False, "comp_ctx_lengths": False, "num_logits_to_keep": False, "kv_cache_prefix": None}


@pytest.mark.slow
def test_sound_is_heard_once_and_read_from_the_cross_cache_after_that(tmp_path: Path) -> None:
    import onnxruntime
    import torch
    from transformers import WhisperForConditionalGeneration

    model, neutral, lowered = (tmp_path / name for name in ("model", "neutral", "lowered"))
    for folder in (model, neutral, lowered):
        folder.mkdir()
    write_tiny(model, "whisper", seed=0, tokenizer=DEMO)
    read_facts(model).save(tmp_path / "facts.json")
    tasks.export(json.loads((tmp_path / "facts.json").read_text()), neutral)
    lower.run(Work(name="lower", params=FORM, inputs={"graph": neutral}, leaves={}, out=lowered))
    graph = load_graph(lowered / "graph.onnx")
    write_weights(graph, Weights(Folder(model, is_checkpoint=True)), lowered / "graph.data")
    save_graph(graph, lowered / "whole.onnx")
    session = onnxruntime.InferenceSession(lowered / "whole.onnx", providers=["CPUExecutionProvider"])
    signature = IoSignature.load(lowered / "io.json")
    sizes = {"batch_size": 1, "decoder_ctx_len": 16, "encoder_ctx_len": 1500}
    states = {
        state.name: np.zeros([sizes.get(axis, axis) for axis in state.axes], np.float32) for state in signature.states
    }
    sound = np.sin(np.arange(80 * 3000) ** 1.1 / 50).reshape(1, 80, 3000).astype(np.float32)

    tokens = [5]
    for position in range(6):
        features = sound if position == 0 else np.zeros((1, 80, 1), np.float32)
        feed = {
            "input_features": features,
            "input_ids": np.array([[tokens[-1]]]),
            "position_ids": np.array([[position]]),
        }
        logits, *kept = session.run(None, {**feed, **states})
        states = dict(zip(states, kept, strict=True))
        tokens.append(int(logits[0, -1].argmax()))

    whole = WhisperForConditionalGeneration.from_pretrained(model).eval()
    with torch.inference_mode():
        said = whole(input_features=torch.from_numpy(sound), decoder_input_ids=torch.tensor([tokens[:-1]])).logits
    assert tokens[1:] == said[0].argmax(-1).tolist()
    assert len(set(tokens)) > 2
