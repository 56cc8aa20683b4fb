"""What the lowered graph says equals the plain truth, however its rows are cut, padded and mixed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import neutral_decoder
import numpy as np
import pytest
from decoder_steps import build, generate
from neutral_decoder import LAYERS, make_decoder, signature

from qeffbuild.backends.onnxruntime.lower import lower
from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.graph.files import load_graph, save_graph

PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [11, 12], [21, 22, 23, 24, 25]]


@pytest.mark.parametrize("attention", ["auto", "portable"])
@pytest.mark.parametrize("said", [{}, {"softcap": 2.0}, {"window": 3}, {"softcap": 2.0, "window": 2}], ids=str)
def test_ragged_rows_in_chunks_give_the_logits_of_whole_prompts(
    tmp_path: Path, said: dict[str, Any], attention: str
) -> None:
    decoder = make_decoder(tmp_path, **said)
    session = open_session(build(decoder, tmp_path, attention=attention), threads=1)

    for chunk in (1, 3, 16):
        found = generate(session, PROMPTS, chunk)

        for prompt, logits in zip(PROMPTS, found, strict=True):
            np.testing.assert_allclose(logits, decoder.logits(prompt), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_checkpoints_in_narrower_floats_are_converted(tmp_path: Path, stored: str) -> None:
    decoder = make_decoder(tmp_path, stored=stored)
    session = open_session(build(decoder, tmp_path), threads=1)

    (found,) = generate(session, PROMPTS[:1], 4)

    np.testing.assert_allclose(found, decoder.logits(PROMPTS[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("said", "words"), [({}, {"causal": LAYERS}), ({"window": 3}, {"window 3": LAYERS})], ids=["causal", "window"]
)
def test_attention_is_fused_and_its_mask_is_gone(tmp_path: Path, said: dict[str, Any], words: dict[str, int]) -> None:
    model = load_graph(make_decoder(tmp_path, **said).exported / "graph.onnx")

    lowered = lower(model, signature(), attention="auto")

    used = Counter(node.op_type for node in model.graph.all_nodes())
    assert lowered["attention"] == {"asked": "auto", "fused": words, "left_portable": {}, "int8": []}
    assert lowered["rows_apart"]
    assert used["GroupQueryAttention"] == LAYERS
    assert not {"CtxScatter", "Attention", "Softmax", "LessOrEqual"} & set(used)


def test_a_mask_without_a_name_goes_in_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make_decoder(tmp_path, window=3)
    graph = load_graph(decoder.exported / "graph.onnx")
    chunk = next(node for node in graph.graph if node.op_type == "Sub")
    chunk.replace_input_with(0, next(value for value in graph.graph.inputs if value.name == "position_ids"))
    row = chunk.outputs[0]
    emit = neutral_decoder.Emitter(graph.graph, "chunk")
    # Tokens see their own chunk of three: its first slot is their position less its remainder.
    positions = emit("Unsqueeze", next(value for value in graph.graph.inputs if value.name == "position_ids"), [1, 3])
    first = emit("Sub", emit("Sub", positions, emit("Mod", emit("Max", positions, 0), 3)), 1)
    emit.place(chunk)
    row.replace_all_uses_with(first)
    save_graph(graph, decoder.exported / "graph.onnx")

    built = build(decoder, tmp_path)
    plain = build(decoder, tmp_path / "portable", attention="portable")

    said = json.loads((tmp_path / "lower/lower.json").read_text())
    assert said["attention"]["fused"] == {"masked": LAYERS}
    for chunk_size in (1, 4):
        one, two = (generate(open_session(each, threads=1), PROMPTS, chunk_size) for each in (built, plain))
        for left, right in zip(one, two, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_heads_of_an_odd_width_stay_portable_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neutral_decoder, "HEAD_WIDTH", 12)
    decoder = make_decoder(tmp_path)
    session = open_session(build(decoder, tmp_path), threads=1)

    (found,) = generate(session, PROMPTS[:1], 4)

    said = json.loads((tmp_path / "lower/lower.json").read_text())
    assert len(said["attention"]["left_portable"]) == LAYERS
    assert all("12 wide" in reason for reason in said["attention"]["left_portable"].values())
    np.testing.assert_allclose(found, decoder.logits(PROMPTS[0]), rtol=1e-4, atol=1e-4)


def test_every_cache_of_a_decoder_is_updated_in_place(tmp_path: Path) -> None:
    model = load_graph(make_decoder(tmp_path).exported / "graph.onnx")

    said = lower(model, signature(), attention="auto")

    assert said["in_place"] == [state.name for state in signature().states]


def test_a_cache_that_somebody_else_reads_is_not_updated_in_place(tmp_path: Path) -> None:
    model = load_graph(make_decoder(tmp_path).exported / "graph.onnx")
    cache = next(value for value in model.graph.inputs if value.name == "past_value.0")
    late = neutral_decoder.Emitter(model.graph, "late")
    total = late("ReduceSum", cache)
    total.name = "total"
    model.graph.extend(late.waiting())
    model.graph.outputs.append(total)

    said = lower(model, signature(), attention="auto")

    assert "past_value.0" not in said["in_place"]
    assert "past_key.0" in said["in_place"]
    assert list(said["attention"]["left_portable"].values()) == ["its cache is shared"]
