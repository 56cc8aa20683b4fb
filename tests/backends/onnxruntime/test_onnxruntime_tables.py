"""Tables in 8 or 4 bits: smaller, near, stored once for both forms of a graph, and left alone where a product reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from decoder_steps import build, generate
from neutral_decoder import Decoder, make_decoder

from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.package import Package

WORDS = {"method": "int8", "bits": 8, "block_size": 16, "symmetric": True, "keep": []}
PROMPT = list(range(1, 25))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return make_decoder(tmp_path_factory.mktemp("decoder"))


def operators(graph: Path) -> list[str]:
    return [node.op_type for node in onnx.load(graph, load_external_data=False).graph.node]


def last(package: Package) -> np.ndarray:
    return generate(open_session(package, threads=1), [PROMPT], 32, 32)[0]


@pytest.mark.parametrize(("bits", "near"), [(8, 0.02), (4, 0.2)])
def test_tokens_are_looked_up_in_a_table_of_integers(decoder: Decoder, tmp_path: Path, bits: int, near: float) -> None:
    whole = build(decoder, tmp_path / "whole", quantization=WORDS)
    small = build(decoder, tmp_path / "small", quantization=WORDS, embedding_bits=bits)

    assert operators(small.path / "decoder.onnx").count("GatherBlockQuantized") == 1
    said = json.loads((tmp_path / "small/lower/lower.json").read_text())["tables"]
    assert said == {"wte.weight": f"{bits} bits in blocks of 32"}
    assert (small.path / "decoder.data").stat().st_size < (whole.path / "decoder.data").stat().st_size
    found, wanted = last(small), last(whole)
    assert 0 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < near


def test_both_forms_of_a_graph_read_one_table(decoder: Decoder, tmp_path: Path) -> None:
    package = build(decoder, tmp_path, quantization=WORDS, prefill=True, embedding_bits=8)

    places = []
    for name in ("decoder.onnx", "decoder.prefill.onnx"):
        graph = onnx.load(package.path / name, load_external_data=False).graph
        (node,) = (node for node in graph.node if node.op_type == "GatherBlockQuantized")
        (table,) = (tensor for tensor in graph.initializer if tensor.name == node.input[0])
        places.append({entry.key: entry.value for entry in table.external_data})
    assert places[0] == places[1]


def test_a_table_that_makes_the_logits_too_stays_as_it_is(decoder: Decoder, tmp_path: Path) -> None:
    package = build(decoder, tmp_path, embedding_bits=8)

    assert "GatherBlockQuantized" not in operators(package.path / "decoder.onnx")
    said = json.loads((tmp_path / "lower/lower.json").read_text())["tables"]
    assert said == {"wte.weight": "floats: a product reads it, too"}
