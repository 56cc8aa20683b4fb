"""Llama with SwiftKV: its answers are those of the published definition, and a prompt's tokens stop half way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chain
import numpy as np
import onnxruntime
import pytest
import torch

from qeffbuild.actions import fetch as fetch_action
from qeffbuild.models import listing, read_facts
from qeffbuild.models.classes import learn
from qeffbuild.signature import IoSignature
from tests.golden.models import write_tokenizer

SIZES = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TYPE = "llama_swiftkv"


@pytest.fixture(scope="module", params=[1, 2], ids=lambda size: f"groups-of-{size}")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of fetch and export: two layers of the usual kind, two of the other, in groups."""
    from transformers import AutoConfig, AutoModelForCausalLM

    root = tmp_path_factory.mktemp("swiftkv")
    folder = root / "fetch" / "model"
    learn({"model_type": TYPE})
    said = {"swiftkv": True, "num_key_value_layers": 2, "key_value_group_size": request.param}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(TYPE, **SIZES, **said))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn_like(parameter) * (0.15 if parameter.dim() > 1 else 0.1) + (parameter.dim() == 1)
            )
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    del written["key_value_kinds"]  # as in a checkpoint that others made
    (folder / "config.json").write_text(json.dumps(written))
    write_tokenizer(folder, SIZES["vocab_size"])
    read_facts(folder).save(root / "fetch" / "facts.json")
    files = fetch_action.digests(folder, listing(folder), lambda fraction, what: None)
    (root / "fetch" / "model.json").write_text(json.dumps({"schema": 1, "files": files}))
    asked = {"dtype": "float32", "task": "causal-lm", "trust_remote_code": False}
    return root / "fetch", chain.step(chain.export_action, root / "export", asked, {"model": root / "fetch"})


def published(fetch: Path, ids: list[int]) -> np.ndarray:
    """The logits of every token, written down from the paper: layer by layer, without a cache."""
    from safetensors.torch import load_file

    weights = load_file(fetch / "model" / "model.safetensors")
    config = json.loads((fetch / "model" / "config.json").read_text())
    own, group = config["num_key_value_layers"], config["key_value_group_size"]
    angles = torch.outer(torch.arange(len(ids)).float(), 10000.0 ** (-torch.arange(0, 16, 2) / 16))
    cos, sin = (torch.cat([table(angles)] * 2, -1) for table in (torch.cos, torch.sin))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return (
            x * torch.rsqrt((x * x).mean(-1, keepdim=True) + config["rms_norm_eps"]) * weights[f"model.{name}.weight"]
        )

    def heads(x: torch.Tensor, name: str) -> torch.Tensor:
        return (x @ weights[f"model.layers.{name}.weight"].T).view(len(ids), -1, 16).transpose(0, 1)

    def turned(x: torch.Tensor) -> torch.Tensor:
        return x * cos + torch.cat([-x[..., 8:], x[..., :8]], -1) * sin

    hidden = weights["model.embed_tokens.weight"][ids]
    keys = values = entered = torch.empty(0)
    for number in range(config["num_hidden_layers"]):
        normed = norm(hidden, f"layers.{number}.input_layernorm")
        suffix = "" if number < own else "_swiftkv"
        if number == own:
            entered = norm(hidden, "norm_swiftkv")
        source = normed if number < own else entered
        if number < own or (number - own) % group == 0:
            keys = turned(heads(source, f"{number}.self_attn.k_proj{suffix}")).repeat_interleave(2, 0)
            values = heads(source, f"{number}.self_attn.v_proj{suffix}").repeat_interleave(2, 0)
        queries = turned(heads(normed, f"{number}.self_attn.q_proj{suffix}"))
        scores = queries @ keys.transpose(1, 2) / 4 + torch.full((len(ids),) * 2, -torch.inf).triu(1)
        attended = (scores.softmax(-1) @ values).transpose(0, 1).reshape(len(ids), -1)
        hidden = hidden + attended @ weights[f"model.layers.{number}.self_attn.o_proj.weight"].T
        normed = norm(hidden, f"layers.{number}.post_attention_layernorm")
        gate, up, down = (weights[f"model.layers.{number}.mlp.{part}_proj.weight"].T for part in ("gate", "up", "down"))
        hidden = hidden + (torch.nn.functional.silu(normed @ gate) * (normed @ up)) @ down
    return (norm(hidden, "norm") @ weights["lm_head.weight"].T).numpy()


def answers(fetch: Path) -> list[list[int]]:
    told = []
    for prompt in chain.PROMPTS:
        ids = list(prompt)
        for _ in range(chain.ANSWER):
            ids.append(int(published(fetch, ids)[-1].argmax()))
        told.append(ids[len(prompt) :])
    return told


@pytest.mark.slow
def test_ragged_prompts_in_chunks_are_answered_as_published(made: tuple[Path, Path], tmp_path: Path) -> None:
    fetch, export = made

    package = chain.packaged(fetch, export, tmp_path)

    assert chain.answers(package) == answers(fetch)


@pytest.mark.slow
def test_only_tokens_whose_logits_are_asked_for_go_through_all_layers(made: tuple[Path, Path], tmp_path: Path) -> None:
    fetch, export = made
    package = chain.packaged(fetch, export, tmp_path)
    ids = [5, 77, 31, 8, 100, 64, 3, 19]

    logits, tokens = run_profiled(package, export, tmp_path, ids)

    np.testing.assert_allclose(logits, published(fetch, ids)[[7, 2]], rtol=1e-4, atol=1e-4)
    # All tokens in the two first layers, two of them in the other two.
    assert sorted(tokens) == [2, 2, 8, 8]


def run_profiled(package: Path, export: Path, root: Path, ids: list[int]) -> tuple[np.ndarray, list[int]]:
    """the logits of two tokens, and how many tokens the gate of each layer had."""
    signature = IoSignature.load(export / "io.json")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.profile_file_prefix = True, str(root / "profile")
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(next(package.rglob("*.onnx"))), options)
    feeds: dict[str, Any] = {
        "input_ids": np.array([ids]),
        "position_ids": np.arange(len(ids))[None],
        "logits_index": np.array([[7, 2]]),
    }
    sizes = {"batch_size": 1, "ctx_len": 16}
    for state in signature.states:
        feeds[state.name] = np.zeros([sizes.get(axis, axis) for axis in state.axes], state.dtype)
    logits = session.run(["logits"], feeds)[0][0]
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event["args"] for event in events if event["name"].endswith("kernel_time")]
    shapes = [next(iter(said["output_type_shape"][0].values())) for said in kernels if said["op_name"] == "MatMul"]
    return logits, [shape[-2] for shape in shapes if shape[-1] == SIZES["intermediate_size"]][::2]


@pytest.mark.slow
def test_layers_of_a_group_share_one_cache(made: tuple[Path, Path]) -> None:
    fetch, export = made
    group = json.loads((fetch / "model" / "config.json").read_text())["key_value_group_size"]

    kept = [state.layer for state in IoSignature.load(export / "io.json").states if state.kind == "key"]

    assert kept == {1: [0, 1, 2, 3], 2: [0, 1, 2]}[group]


def test_numbers_that_leave_no_whole_groups_are_refused() -> None:
    from transformers import AutoConfig

    learn({"model_type": TYPE})
    with pytest.raises(ValueError, match="2 of 5 layers leave no whole groups of key_value_group_size 2"):
        AutoConfig.for_model(
            TYPE, **{**SIZES, "num_hidden_layers": 5}, swiftkv=True, num_key_value_layers=2, key_value_group_size=2
        )


def test_without_swiftkv_it_is_the_llama_that_it_is_trained_from() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    learn({"model_type": TYPE})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(TYPE, **SIZES, num_key_value_layers=2))

    assert {type(layer).__name__ for layer in model.model.layers} == {"LlamaDecoderLayer"}
