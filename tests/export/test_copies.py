"""A graph of copies computes what PyTorch computes with all layers, whatever the layers hand on and keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qeffbuild.export import tasks
from qeffbuild.export.skeleton import configuration, small_model
from qeffbuild.graphs import members
from qeffbuild.models.classes import model_from

WIDTHS = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 256}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
TOKENS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 4}
SPEECH, TEXT = "speech-seq2seq", "text-seq2seq"
CTX_LEN = 12

# The first layer of a T5's stacks makes the bias of positions that all others read.
CASES = {
    "t5": (
        TEXT,
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "vocab_size": 256},
        {"num_layers": 5, "num_decoder_layers": 4},
        (9, 6),
    ),
    "whisper": (
        SPEECH,
        {**WIDTHS, **HEADS, **TOKENS, "max_source_positions": 10, "max_target_positions": 20, "num_mel_bins": 8},
        {"encoder_layers": 4, "decoder_layers": 2},
        (6, 4),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", CASES)
def test_an_encoder_decoder_of_copies_answers_as_pytorch(model_type, facts_of, session_for, tmp_path):
    task, sizes, layers, counts = CASES[model_type]
    config = configuration({"model_type": model_type, **sizes, **layers})
    model = small_model(config, lambda said: model_from(said, task, attn_implementation="eager"))
    model.save_pretrained(tmp_path)
    out = tmp_path / "out"
    out.mkdir()

    report = tasks.export({**facts_of(tmp_path), "task": task}, out)

    assert (report.layers, report.layers_traced, report.all_layers_because) == (*counts, None)
    graphs = {member.name: (member.signature, session_for(member.graph, tmp_path)) for member in members(out)}
    heard = _heard(model, task)
    tokens = torch.tensor([[20, 7, 91, 33], [60, 61, 5, 80]])
    with torch.no_grad():
        expected = model(**heard, decoder_input_ids=tokens).logits.numpy()
    np.testing.assert_allclose(_answered(graphs, heard, tokens.numpy()), expected, atol=2e-4)


def _heard(model, task):
    if task == SPEECH:
        wave = torch.sin(torch.arange(2 * 8 * 20) ** 1.1 / 50)
        return {"input_features": wave.reshape(2, 8, 20)}
    return {"input_ids": torch.arange(14).reshape(2, 7) * 3 + 20, "attention_mask": torch.ones(2, 7, dtype=torch.long)}


def _answered(graphs, heard, tokens):
    """Logits of all tokens at once, by both graphs."""
    told, listening = graphs["encoder"]
    cross = listening.run(None, {name: tensor.numpy() for name, tensor in heard.items()})
    held = {tensor.name: made for tensor, made in zip(told.outputs, cross, strict=True)}
    signature, saying = graphs["decoder"]
    if "attention_mask" in heard:
        held["encoder_attention_mask"] = heard["attention_mask"].numpy()
    sizes = {"batch_size": 2, "ctx_len": CTX_LEN}
    states = {s.name: np.zeros([sizes.get(axis, axis) for axis in s.axes], s.dtype) for s in signature.states}
    positions = np.tile(np.arange(tokens.shape[1]), (2, 1))
    fed = {"input_ids": tokens, "position_ids": positions, "logits_index": positions, **states, **held}
    return saying.run(None, fed)[0]
