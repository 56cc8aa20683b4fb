"""Models in float16 and bfloat16: what their graphs compute in, and what the embedded backend makes of them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from qeffbuild import api
from qeffbuild.graph.files import load_graph
from qeffbuild.graphs import members
from qeffbuild.package import Package
from qeffbuild.runtime.engine import Engine
from qeffbuild.spec.types import DecodingSpec

PROMPT, ANSWER = [3, 1, 4, 1, 5, 9, 2, 6, 5], 6
KINDS = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}

DTYPES = [pytest.param("bfloat16", marks=pytest.mark.slow), pytest.param("float16", marks=pytest.mark.long)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., api.Built]:
    """built("llama", "bfloat16", ...): each build once; gates look at every graph on the way."""
    root = tmp_path_factory.mktemp("narrow")
    made: dict[tuple[str, ...], api.Built] = {}

    def build(model_type: str, dtype: str, *words: str) -> api.Built:
        key = (model_type, dtype, *words)
        if key not in made:
            tiny = ("model=hf", f"model.model_type={model_type}", "model.scale=tiny")
            asked = (f"cache.root={root}", *tiny, f"model.dtype={dtype}", "gate=full", *words)
            with contextlib.redirect_stderr(io.StringIO()):
                made[key] = api.build(api.compose(asked, conf_dirs=()))
        return made[key]

    return build


def computed_in(folder: Path) -> set[str]:
    return {node.op_type for node in load_graph(folder / "graph.onnx").graph if _is_wide(node)}


def _is_wide(node: ir.Node) -> bool:
    return node.op_type not in ("Cast", "Constant") and node.outputs[0].dtype == ir.DataType.FLOAT


def rounded(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    for parameter in model.parameters():
        parameter.data = parameter.to(getattr(torch, dtype)).float()
    return model.eval()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_neutral_graph_has_the_models_dtype_and_norms_in_float32(built, dtype: str) -> None:
    done = built("llama", dtype)

    export = done.folder_of("export")
    signature, graph = members(export)[0].signature, load_graph(export / "graph.onnx").graph
    assert {state.dtype for state in signature.states} == {dtype}
    assert signature.outputs[0].dtype == "float32"
    assert {node.outputs[0].dtype for node in graph if node.op_type in ("MatMul", "Attention")} == {KINDS[dtype]}
    assert computed_in(export) <= {
        *("Add", "Mul", "Pow", "ReduceMean", "Reciprocal", "Sqrt"),  # norms
        *("Cos", "Sin", "Concat"),  # rotary angles
    }
    assert {said["limits"]["noise"] for said in Package.open(done.package).manifest["gate"].values()} == {
        {"float16": 0.05, "bfloat16": 0.2}[dtype]
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_package_answers_as_pytorch_does_with_rounded_weights(built, dtype: str) -> None:
    done = built("llama", dtype)
    model = rounded(AutoModelForCausalLM.from_pretrained(done.folder_of("fetch") / "model"), dtype)

    asked = DecodingSpec(max_new_tokens=ANSWER, ignore_eos=True)
    (output,) = Engine.open(done.package, threads=1).generate([PROMPT], asked).outputs

    text = list(PROMPT)
    with torch.no_grad():
        for _ in range(ANSWER):
            text.append(int(model(input_ids=torch.tensor([text])).logits[0, -1].argmax()))
    assert list(output.token_ids) == text[len(PROMPT) :]
    assert {state.dtype for state in Package.open(done.package).signature("decoder").states} == {"float32"}


@pytest.mark.long
def test_quantizing_starts_from_the_rounded_weights(built) -> None:
    done = built("llama", "bfloat16", "quantization=int8")

    found = Package.open(done.package).manifest["gate"]

    assert sorted(found) == ["export", "lower", "quantize", "widen"]
    assert found["lower"]["at_most"]["noise"] <= 0.1


@pytest.mark.long
def test_an_encoder_decoder_holds_its_cross_cache_in_its_dtype(built) -> None:
    done = built("t5", "bfloat16")

    decoder, encoder = members(done.folder_of("export"))
    assert {tensor.dtype for tensor in decoder.signature.held} == {"bfloat16", "int64"}
    assert {tensor.dtype for tensor in encoder.signature.outputs} == {"bfloat16"}
    wide = Package.open(done.package).signature("decoder")
    assert {tensor.dtype for tensor in (*wide.held, *wide.states)} == {"float32", "int64"}
    assert AutoModelForSeq2SeqLM.from_pretrained(done.folder_of("fetch") / "model").dtype == torch.float32


@pytest.mark.long
def test_sound_comes_in_as_float32_and_what_onnx_has_no_bfloat16_for_is_computed_in_it(built) -> None:
    done = built("wav2vec2", "bfloat16")

    export = done.folder_of("export")
    (encoder,) = members(export)
    assert [tensor.dtype for tensor in (*encoder.signature.inputs, *encoder.signature.outputs)] == ["float32"] * 2
    assert "Conv" in computed_in(export)
    assert "MatMul" not in computed_in(export)


@pytest.mark.long
def test_pooling_counts_in_float32(built) -> None:
    done = built("bert", "bfloat16")

    assert "ReduceSum" in computed_in(done.folder_of("export"))
    figures = json.loads((done.package / "manifest.json").read_text())["gate"]["lower"]["at_most"]
    assert figures["noise"] <= 0.02
