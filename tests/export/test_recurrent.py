"""Layers that carry a state from token to token: one graph for prefill and decode, equal to PyTorch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from qeffbuild.graph.files import load_graph
from qeffbuild.graph.loops import lower_loops
from qeffbuild.models.tiny import tiny_config

# State-space layers alone; gated delta rule, convolutions, lightning attention, and each of them beside attention.
FAMILIES = (
    "mamba",
    "mamba2",
    "qwen3_next",
    "lfm2",
    "minimax",
    "jamba",
    "kimi_linear",
    "zaya",
    "recurrent_gemma",
    "qwen4_exp_text",
)
# Their states hold the greatest exponent so far, which no product of matrices makes.
IN_LOGARITHMS = ("rwkv", "xlstm")
MARKS = {
    "mamba2": pytest.mark.slow,
    "qwen3_next": pytest.mark.slow,
    "minimax": pytest.mark.slow,
    "jamba": pytest.mark.long,
    "kimi_linear": pytest.mark.long,
    "zaya": pytest.mark.long,
    "recurrent_gemma": pytest.mark.long,
    "rwkv": pytest.mark.slow,
    "xlstm": pytest.mark.long,
    "qwen4_exp_text": pytest.mark.long,
}
ROWS = ([17, 230, 41, 99, 3, 180, 64, 7, 121, 55, 210], [140, 9, 77, 201])
DECODED = [101, 35, 222]


@pytest.mark.parametrize(
    "model_type", [pytest.param(name, marks=MARKS.get(name, ())) for name in (*FAMILIES, *IN_LOGARITHMS)]
)
def test_a_recurrent_model_says_what_pytorch_says(exported_config, model_type):
    made = exported_config(tiny_config(model_type, 256, 2))
    rows = [[*row, *DECODED] for row in ROWS]
    wanted = [made.reference(row) for row in rows]
    lengths = [len(row) for row in ROWS]

    # In chunks of four, where the shorter row runs out, then token by token.
    states = made.states(2)
    for start in range(0, lengths[0], 4):
        chunk = [row[start : start + 4] for row in ROWS]
        logits, states = made.step(states, chunk, [start, start])
        for row, tokens in enumerate(chunk):
            if tokens:
                assert error(logits[row], wanted[row][start + len(tokens) - 1], wanted[row]) < 1e-4
    for step, token in enumerate(DECODED):
        logits, states = made.step(states, [[token], [token]], [length + step for length in lengths])
        for row, length in enumerate(lengths):
            assert error(logits[row], wanted[row][length + step], wanted[row]) < 1e-4
            assert logits[row].argmax() == wanted[row][length + step].argmax()


@pytest.mark.parametrize("model_type", [pytest.param(name, marks=MARKS.get(name, ())) for name in FAMILIES])
def test_every_loop_goes_by_chunks(exported_config, model_type):
    made = exported_config(tiny_config(model_type, 256, 2))

    said = lower_loops(load_graph(made.folder / "graph.onnx").graph)

    assert said.by_chunks
    assert not said.token_by_token


@pytest.mark.slow
def test_layers_that_ask_the_same_of_positions_are_loops_of_their_own(exported_config):
    config = tiny_config("recurrent_gemma", 256, 2)
    config.num_hidden_layers = 3
    config.block_types = ["recurrent", "attention", "recurrent"]
    made = exported_config(config)

    said = lower_loops(load_graph(made.folder / "graph.onnx").graph)

    assert said.by_chunks == 2


def test_a_new_text_finds_no_trace_of_the_one_before(exported_config):
    made = exported_config(tiny_config("mamba", 256, 2))
    fresh, _ = made.step(made.states(1), [ROWS[1]], [0])

    _, used = made.step(made.states(1), [ROWS[0]], [0])
    again, _ = made.step(used, [ROWS[1]], [0])

    assert np.array_equal(again, fresh)


def test_the_signature_says_which_states_are_replaced_whole(exported_config):
    made = exported_config(tiny_config("lfm2", 256, 2))

    said = {(state.kind, state.positional) for state in made.signature.states}

    assert said == {("key", True), ("value", True), ("conv", False)}


def test_layers_with_states_are_copied_as_others_are(exported_config):
    config = tiny_config("mamba", 256, 2)
    config.num_hidden_layers = 6

    made = exported_config(config)

    assert (made.report.layers, made.report.layers_traced) == (6, 2)
    graph = ir.load(made.folder / "graph.onnx").graph
    assert sum(node.op_type == "StateOut" for node in graph) == 12
    wanted = made.reference(ROWS[0])[-1]
    logits, _ = made.step(made.states(1), [ROWS[0]], [0])
    assert np.abs(logits[0] - wanted).max() / wanted.std() < 1e-4


def error(ours: np.ndarray, wanted: np.ndarray, spread: np.ndarray) -> float:
    return float(np.abs(ours - wanted).max() / spread.std())
