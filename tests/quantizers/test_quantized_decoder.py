"""The quantize step on a whole decoder: what it replaces, what it leaves, and that the package still says the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from decoder_steps import build, generate
from neutral_decoder import LAYERS, make_decoder

from qeffbuild import quantizers
from qeffbuild.actions import quantize
from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.executor.work import Work
from qeffbuild.graph.blocks import restore
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.files import load_graph, save_graph

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [11, 12]]
MATRICES = {
    f"h.{i}.{name}.weight" for i in range(LAYERS) for name in ("q_proj", "k_proj", "v_proj", "c_proj", "c_fc", "c_out")
}


def params(method: str, **said: Any) -> dict[str, Any]:
    bits, block_size = quantizers.bits_of(method), quantizers.block_size_of(method)
    return {"method": method, "bits": bits, "block_size": block_size, "symmetric": True, "keep": [], **said}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("method", "block_size"), [("int8", 128), ("int8", 32), ("int4", 16), ("int4", 32)])
def test_a_quantized_package_computes_with_the_restored_weights(
    tmp_path: Path, method: str, block_size: int, symmetric: bool
) -> None:
    said = params(method, block_size=block_size, symmetric=symmetric)
    decoder = make_decoder(tmp_path)
    session = open_session(build(decoder, tmp_path, quantization=said), threads=1)

    found = generate(session, PROMPTS, 4)

    table = decoder.weights["wte.weight"]
    for name in MATRICES:
        weight = decoder.weights[name]
        turned = weight.T if "c_proj" in name or "c_fc" in name else weight  # those two are [in, out]
        blocks = quantizers.find(method).quantize(turned, block_size=block_size, symmetric=symmetric)
        restored = restore(blocks, bits=said["bits"], columns=turned.shape[1])
        decoder.weights[name] = restored.T if turned is not weight else restored
    assert decoder.weights["wte.weight"] is table
    # The head is quantized as well, and activations are rounded to 8 bits inside MatMulNBits: near, not equal.
    for prompt, logits in zip(PROMPTS, found, strict=True):
        truth = decoder.logits(prompt)
        assert np.linalg.norm(logits - truth) / np.linalg.norm(truth) < (0.03 if method == "int8" else 0.15)


def test_products_of_every_form_are_quantized_and_the_embedding_is_not(tmp_path: Path) -> None:
    build(make_decoder(tmp_path, stored="F16"), tmp_path, quantization=params("int8"))

    said = json.loads((tmp_path / "quantize/quantize.json").read_text())
    graph = load_graph(tmp_path / "quantize/graph.onnx").graph
    assert set(said["quantized"]) == {*MATRICES, "wte.weight"}
    assert said["kept"] == {}
    assert [node.op_type for node in graph if node.op_type in ("MatMul", "Gemm")] == []
    (lookup,) = (node for node in graph if node.op_type == "Gather" and node.inputs[1].name == "input_ids")
    assert isinstance(lookup.inputs[0].producer().inputs[0].const_value, ir.ExternalTensor)
    assert lookup.inputs[0].producer().inputs[0].const_value.location == "model.safetensors"
    assert all(node.attributes["accuracy_level"].as_int() == 4 for node in graph if node.op_type == "MatMulNBits")


def test_weights_can_have_forms_of_their_own_by_what_they_do(tmp_path: Path) -> None:
    own = {"attention_bits": 8, "attention_block_size": 16, "query_block_size": 128, "down_block_size": 64}
    said = params("int4", block_size=32, head_block_size=256, **own)
    build(make_decoder(tmp_path), tmp_path, quantization=said)

    graph = load_graph(tmp_path / "quantize/graph.onnx").graph
    forms = {}
    for node in (node for node in graph if node.op_type == "MatMulNBits"):
        name = node.inputs[1].name.removesuffix(".numbers").rsplit(".", 2)[0]
        forms[name] = (node.attributes["bits"].as_int(), node.attributes["block_size"].as_int())
    roles = ("q_proj", "k_proj", "v_proj", "c_proj", "c_fc", "c_out")
    wanted = dict(zip(roles, ((4, 128), (4, 128), (8, 16), (8, 16), (4, 32), (4, 64)), strict=True))
    assert forms.pop("wte.weight") == (4, 256)
    assert forms == {name: wanted[name.split(".")[2]] for name in MATRICES}


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (["lm_head*"], {"wte.weight"}),
        (["wte*"], {"wte.weight"}),
        (["h.0.*"], {name for name in MATRICES if name.startswith("h.0.")}),
        (["*"], {*MATRICES, "wte.weight"}),
    ],
    ids=["head", "embedding", "a layer", "all"],
)
def test_kept_weights_are_named_with_the_pattern_that_kept_them(
    tmp_path: Path, keep: list[str], kept: set[str]
) -> None:
    package = build(make_decoder(tmp_path), tmp_path, quantization=params("int4", keep=keep))

    said = json.loads((tmp_path / "quantize/quantize.json").read_text())
    assert said["kept"] == dict.fromkeys(kept, f"keep {keep[0]}")
    assert set(said["quantized"]) == {*MATRICES, "wte.weight"} - kept
    assert package.manifest["quantization"]["keep"] == keep


def test_a_quantized_package_is_smaller(tmp_path: Path) -> None:
    sizes = {}
    for method in ("none", "int8", "int4"):
        folder = tmp_path / method
        quantization = None if method == "none" else params(method, block_size=32)
        package = build(make_decoder(folder), folder, quantization=quantization)
        sizes[method] = (package.path / "decoder.data").stat().st_size

    assert sizes["int4"] < sizes["int8"] < sizes["none"]


def quantized_with(tmp_path: Path, add: Callable[[Emitter, ir.Graph], ir.Value]) -> dict[str, Any]:
    """quantize.json of the decoder with some more nodes at its end."""
    decoder = make_decoder(tmp_path)
    model = load_graph(decoder.exported / "graph.onnx")
    emit = Emitter(model.graph, "more")
    made = add(emit, model.graph)
    model.graph.extend(emit.waiting())
    model.graph.outputs.append(made)
    save_graph(model, decoder.exported / "graph.onnx")
    out = tmp_path / "quantize"
    out.mkdir()
    inputs = {"graph": decoder.exported, "model": decoder.fetched}
    quantize.run(
        Work(name="quantize", params=params("int8"), inputs=inputs, leaves={"model": decoder.checkpoint}, out=out)
    )
    return json.loads((out / "quantize.json").read_text())


@pytest.mark.parametrize("rows", ["shared", "own"])
def test_weights_of_experts_are_quantized_one_by_one(tmp_path: Path, rows: str) -> None:
    """Two experts: c_out of both layers in one stack, each with rows of its own or all with the same."""

    def experts(emit: Emitter, graph: ir.Graph) -> ir.Value:
        names = ("h.0.c_out.weight", "h.1.c_out.weight")
        stack = emit("Concat", *(emit("Unsqueeze", graph.initializers[name], [0]) for name in names), axis=0)
        tokens = np.random.default_rng(0).standard_normal((1 if rows == "shared" else 2, 3, 80)).astype(np.float32)
        zero = emit("Mul", emit("ReduceMax", emit("Cast", graph.inputs[0], to=1), keepdims=0), np.float32(0))
        x = emit("Add", tokens, zero)  # no constant: it comes from the inputs
        x.shape, x.type = ir.Shape(tokens.shape), ir.TensorType(ir.DataType.FLOAT)
        return emit("MatMul", x, emit("Transpose", stack, perm=[0, 2, 1]))

    said = quantized_with(tmp_path, experts)

    graph = load_graph(tmp_path / "quantize/graph.onnx").graph
    assert said["kept"] == {}
    assert said["quantized"]["h.0.c_out.weight"] == [48, 80]
    last = graph.outputs[-1].producer()
    assert last.op_type == "Concat"
    assert [value.producer().op_type for value in last.inputs] == ["MatMulNBits", "MatMulNBits"]
    inputs = [value.producer().inputs[0].producer().op_type for value in last.inputs]
    assert inputs == (["Add"] * 2 if rows == "shared" else ["Split"] * 2)


def test_what_makes_scores_of_tokens_for_a_choice_stays_as_it_is(tmp_path: Path) -> None:
    def indexer(emit: Emitter, graph: ir.Graph) -> ir.Value:
        """Queries of one weight, held against keys; in the end something that is read by no choice."""
        one = emit("Slice", graph.initializers["wpe.weight"], [0], [1], [0])
        queries = emit("MatMul", emit("ReduceSum", graph.outputs[0], [2], keepdims=1), one)
        scores = emit("Relu", emit("MatMul", queries, emit("Transpose", queries, perm=[0, 2, 1])))
        chosen = emit("Cast", emit.several("TopK", 2, scores, [1])[1], to=1)
        return emit("MatMul", emit("Expand", chosen, [1, 1, 64]), graph.initializers["h.0.c_fc.weight"])

    said = quantized_with(tmp_path, indexer)

    assert said["kept"] == {"wpe.weight": "it chooses experts or tokens: a small error would choose others"}


def test_a_router_stays_as_it_is_and_says_so(tmp_path: Path) -> None:
    def router(emit: Emitter, graph: ir.Graph) -> ir.Value:
        one = emit("Slice", graph.initializers["wpe.weight"], [0], [1], [0])
        x = emit("ReduceSum", graph.outputs[0], [2], keepdims=1)
        scores = emit("Softmax", emit("MatMul", x, one), axis=-1)
        return emit.several("TopK", 2, scores, [2])[1]

    said = quantized_with(tmp_path, router)

    assert said["kept"] == {"wpe.weight": "it chooses experts or tokens: a small error would choose others"}
