"""Weights are the checkpoint's own bytes: by name, prefix, tying, dtype and merging, as transformers would load them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from qeffbuild.errors import ModelError
from qeffbuild.export import export
from qeffbuild.export.skeleton import small_model

ROW = [17, 230, 41, 99, 3]


def test_half_precision_weights_are_cast_in_the_graph(exported):
    made = exported("qwen3", stored="bfloat16")

    logits, _ = made.step(made.states(1), [ROW], [0])

    graph = ir.load(made.folder / "graph.onnx").graph
    stored = {value.dtype for value in graph.initializers.values() if isinstance(value.const_value, ir.ExternalTensor)}
    assert stored == {ir.DataType.BFLOAT16}
    wanted = made.reference(ROW)[-1]
    assert abs(logits[0] - wanted).max() / wanted.std() < 1e-4


@pytest.mark.parametrize(("stored", "casts"), [("bfloat16", 0), ("float32", 1)])
def test_a_graph_in_bfloat16_takes_such_weights_as_they_are_and_casts_others_once(
    stored, casts, small_config, facts_of, tmp_path
):
    model = small_model(small_config("gpt2")).to(getattr(torch, stored))
    model.save_pretrained(tmp_path)

    export(facts_of(tmp_path), tmp_path, dtype="bfloat16")

    graph = ir.load(tmp_path / "graph.onnx").graph
    weights = [value for value in graph.initializers.values() if isinstance(value.const_value, ir.ExternalTensor)]
    assert {sum(use.node.op_type == "Cast" for use in value.uses()) for value in weights} == {casts}
    assert all(len(value.uses()) == 1 for value in weights) or not casts


def test_tied_weights_are_one_reference(exported):
    made = exported("gpt2")

    graph = ir.load(made.folder / "graph.onnx").graph
    table = graph.initializers["transformer.wte.weight"]
    assert {use.node.op_type for use in table.uses()} == {"Gather", "Transpose"}


def test_a_buffer_that_the_checkpoint_stores_is_a_reference_of_each_layer(small_config, facts_of, tmp_path):
    small_model(small_config("glm4_moe")).save_pretrained(tmp_path)
    stored = {name for name in load_file(tmp_path / "model.safetensors") if name.endswith("e_score_correction_bias")}

    export(facts_of(tmp_path), tmp_path)

    graph = ir.load(tmp_path / "graph.onnx").graph
    referred = {name for name, value in graph.initializers.items() if isinstance(value.const_value, ir.ExternalTensor)}
    assert len(stored) > 1
    assert stored <= referred


def test_merged_experts_are_concatenated_from_the_tensors_of_each(exported):
    made = exported("qwen3_moe")

    graph = ir.load(made.folder / "graph.onnx").graph
    assert "model.layers.5.mlp.experts.2.gate_proj.weight" in graph.initializers
    assert not any("gate_up_proj" in name for name in graph.initializers)


def test_the_graph_holds_no_weights(exported):
    made = exported("gpt2")

    graph = ir.load(made.folder / "graph.onnx").graph
    inside = [v for v in graph.initializers.values() if not isinstance(v.const_value, ir.ExternalTensor)]
    assert inside == []
    assert (made.folder / "graph.onnx").stat().st_size < 60_000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, small_config) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    small_model(small_config("gpt2")).save_pretrained(folder)
    return folder


def rewrite(checkpoint: Path, folder: Path, change) -> Path:
    """The checkpoint with other tensors in it."""
    tensors = {name: tensor.clone() for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    save_file(change(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text((checkpoint / "config.json").read_text())
    return folder


def test_a_checkpoint_of_the_bare_base_model_is_found(checkpoint, facts_of, tmp_path):
    bare = rewrite(checkpoint, tmp_path, lambda t: {k.removeprefix("transformer."): v for k, v in t.items()})

    export(facts_of(bare), tmp_path)

    names = set(ir.load(tmp_path / "graph.onnx").graph.initializers)
    assert {"wte.weight", "h.5.mlp.c_fc.weight"} <= names


def test_tied_weights_that_are_stored_apart_are_two(checkpoint, facts_of, tmp_path):
    def untied(tensors):
        return {**tensors, "lm_head.weight": torch.randn_like(tensors["transformer.wte.weight"])}

    apart = rewrite(checkpoint, tmp_path, untied)

    export(facts_of(apart), tmp_path)

    graph = ir.load(tmp_path / "graph.onnx").graph
    assert {use.node.op_type for use in graph.initializers["lm_head.weight"].uses()} == {"Transpose"}


def test_a_missing_tensor_is_named(checkpoint, facts_of, tmp_path):
    without = rewrite(checkpoint, tmp_path, lambda t: {k: v for k, v in t.items() if "h.5.ln_1" not in k})

    with pytest.raises(ModelError) as raised:
        export(facts_of(without), tmp_path)

    assert raised.value.kind == "model.weights"
    assert raised.value.message == "the checkpoint has no tensor for transformer.h.5.ln_1.weight and 1 more"


def test_a_tensor_of_another_shape_is_refused(checkpoint, facts_of, tmp_path):
    wrong = rewrite(checkpoint, tmp_path, lambda t: {**t, "transformer.ln_f.weight": torch.ones(7)})

    with pytest.raises(ModelError) as raised:
        export(facts_of(wrong), tmp_path)

    assert raised.value.kind == "model.weights"
    assert "transformer.ln_f.weight of model.safetensors: shape [7], but" in raised.value.message


EXPORT = """
import json, sys
from pathlib import Path
from qeffbuild.export import export
export(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_another_process_writes_the_same_bytes_and_says_nothing(exported, facts_of, tmp_path):
    made = exported("gpt2")
    facts, out = tmp_path / "facts.json", tmp_path / "elsewhere"
    facts.write_text(json.dumps(facts_of(made.folder.parent)))
    out.mkdir()

    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", EXPORT, facts, out]
    said = subprocess.run(command, env=environment, check=True, cwd=out, capture_output=True, text=True)

    assert (said.stdout, said.stderr) == ("", "")
    ours, theirs = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (made.folder, out))
    assert sorted(theirs) == ["export.json", "graph.onnx", "io.json"]
    assert theirs == ours
    assert str(tmp_path).encode() not in theirs["graph.onnx"]
