"""Methods with a text, a cache in fewer bits, and a budget, on a whole decoder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from decoder_steps import build, generate
from neutral_decoder import KV_HEADS, LAYERS, Decoder, make_decoder

from qeffbuild import api, quantizers
from qeffbuild.actions import quantize, sensitivity
from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.calibration.kv import read_scales
from qeffbuild.errors import ModelError
from qeffbuild.executor.work import Work

TINY_MAMBA = ("model=hf", "model.scale=tiny", "model.model_type=mamba")
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [11, 12]]


@pytest.fixture
def decoder(tmp_path: Path) -> Decoder:
    return make_decoder(tmp_path)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    words = np.random.default_rng(1).integers(0, 60, 1200)
    (tmp_path / "text").write_text(" ".join(f"w{word}" for word in words))
    return tmp_path / "text"


def params(method: str, **said: Any) -> dict[str, Any]:
    found = quantizers.find(method)
    made = {"method": method, "bits": found.BITS, "block_size": found.BLOCK_SIZE, "symmetric": True, "keep": []}
    return {**made, "calibration_tokens": 1024, **said}


def run(decoder: Decoder, text: Path, out: Path, said: dict[str, Any], action: Any = quantize, **inputs: Path) -> Any:
    """One action, and the document that it writes."""
    out.mkdir()
    roles = {"graph": decoder.exported, "model": decoder.fetched, **inputs}
    leaves = {"model": decoder.checkpoint, "calibration": text}
    action.run(Work(name=out.name, params=said, inputs=roles, leaves=leaves, out=out))
    return json.loads((out / f"{action.__name__.rpartition('.')[2]}.json").read_text())


def error_of(decoder: Decoder, folder: Path, quantization: dict[str, Any], text: Path) -> float:
    """How far the package's logits are from the exact ones."""
    folder.mkdir()
    package = build(decoder, folder, quantization=quantization, calibration=text)
    found = np.concatenate(generate(open_session(package, threads=1), PROMPTS, 4))
    truth = np.concatenate([decoder.logits(prompt) for prompt in PROMPTS])
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


@pytest.mark.slow
@pytest.mark.parametrize("words", [("quantization=gptq",), ("quantization=auto", "quantization.budget=0.2")])
def test_a_text_comes_to_what_needs_no_state_of_layers_that_keep_one(spec_of, words: tuple[str, ...]) -> None:
    built = api.build(spec_of("quantization.calibration_tokens=256", *TINY_MAMBA, *words))

    said = json.loads((built.folder_of("quantize") / "quantize.json").read_text())
    seen, unseen = {"embeddings", "in_proj", "out_proj"}, {"x_proj"}
    assert {name.split(".")[-2] for name in said["quantized"]} == seen | unseen
    assert {name.split(".")[-2] for name in said["loss"]} == seen
    assert {name.split(".")[-2] for name in said["unseen"]} == unseen
    assert (said["kept"], 0 < said["kl"] < 0.2) == ({}, True)


@pytest.mark.parametrize(
    ("method", "most"),
    [("dynamic", 0.05), ("fp8", 0.1), ("mxint8", 0.05), ("mxfp6_emulated", 0.15), ("mxfp4", 0.6)],
)
def test_rounded_forms_stay_near_the_exact_model(
    decoder: Decoder, tmp_path: Path, text: Path, method: str, most: float
) -> None:
    assert 1e-5 < error_of(decoder, tmp_path / "package", params(method), text) < most


def test_calibrated_methods_are_nearer_than_round_to_nearest(decoder: Decoder, tmp_path: Path, text: Path) -> None:
    said = {method: params(method, block_size=16) for method in ("int4", "awq", "gptq")}
    (tmp_path / "sensitivity.json").write_text('{"kl": {}, "sizes": {}}')

    kl = {method: run(decoder, text, tmp_path / method, one)["kl"] for method, one in said.items() if method != "int4"}
    kl["int4"] = run(decoder, text, tmp_path / "int4", {**said["int4"], "budget": 9.0}, sensitivity=tmp_path)["kl"]

    assert kl["gptq"] < kl["awq"] < kl["int4"]


def test_the_same_text_gives_the_same_bytes(decoder: Decoder, tmp_path: Path, text: Path) -> None:
    for out in ("once", "again"):
        run(decoder, text, tmp_path / out, params("gptq", block_size=16))

    for file in ("quantized.data", "graph.onnx", "quantize.json"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_a_budget_keeps_the_weights_that_matter_most_in_eight_bits(
    decoder: Decoder, tmp_path: Path, text: Path
) -> None:
    of_sensitivity = {"block_size": 16, "keep": [], "calibration_tokens": 256}
    known = run(decoder, text, tmp_path / "sensitivity", of_sensitivity, action=sensitivity)
    said = params("int4", block_size=16)
    loose = run(decoder, text, tmp_path / "loose", {**said, "budget": 9.0}, sensitivity=tmp_path / "sensitivity")
    budget = loose["kl"] / 4

    kept = run(decoder, text, tmp_path / "kept", {**said, "budget": budget}, sensitivity=tmp_path / "sensitivity")

    assert len(known["kl"]) == 6 * LAYERS + 1
    assert min(known["kl"].values()) > 0
    assert loose["eight"] == []
    assert kept["kl"] <= budget
    assert 0 < len(kept["eight"]) < len(known["kl"])
    assert max(known["kl"], key=lambda name: known["kl"][name] / known["sizes"][name]) in kept["eight"]
    assert (tmp_path / "kept/quantized.data").stat().st_size > (tmp_path / "loose/quantized.data").stat().st_size


@pytest.mark.parametrize("format", ["int8", "mxint8"])
def test_a_rounded_cache_changes_little_and_not_nothing(
    decoder: Decoder, tmp_path: Path, text: Path, format: str
) -> None:
    said = {"method": "none", "kv_cache": format, "calibration_tokens": 512}

    assert 1e-5 < error_of(decoder, tmp_path / "package", said, text) < 0.03


def test_an_int8_cache_brings_scales_for_each_channel(decoder: Decoder, tmp_path: Path, text: Path) -> None:
    run(decoder, text, tmp_path / "out", {"method": "none", "kv_cache": "int8", "calibration_tokens": 512})

    scales = read_scales(tmp_path / "out")

    assert set(scales) == {f"past_{kind}.{layer}" for kind in ("key", "value") for layer in range(LAYERS)}
    assert all(one.per_channel.shape == (KV_HEADS, 16) for one in scales.values())
    assert all(one.per_tensor == pytest.approx(one.per_channel.max()) for one in scales.values())


@pytest.mark.slow
def test_a_cache_in_8_bits_of_a_model_without_one_is_refused(spec_of) -> None:
    with pytest.raises(ModelError) as caught:
        _ = api.build(spec_of("quantization.kv_cache=int8", *TINY_MAMBA)).package

    assert "keeps no keys and values" in caught.value.message


@pytest.mark.parametrize(("attention", "dtype"), [("auto", "int8"), ("portable", "float32")])
@pytest.mark.parametrize("prefill", [False, True])
def test_an_int8_cache_is_stored_so_where_attention_is_fused(
    decoder: Decoder, tmp_path: Path, text: Path, attention: str, dtype: str, prefill: bool
) -> None:
    said = params("int8", kv_cache="int8", calibration_tokens=512, block_size=16)

    package = build(
        decoder, tmp_path / "package", attention=attention, quantization=said, calibration=text, prefill=prefill
    )
    session = open_session(package, threads=1)
    found = np.concatenate(generate(session, PROMPTS, 4))
    one = session.allocate("decoder", 1, 32)

    assert {array.dtype.name for array in one.arrays.values()} == {dtype}
    truth = np.concatenate([decoder.logits(prompt) for prompt in PROMPTS])
    assert np.linalg.norm(found - truth) / np.linalg.norm(truth) < 0.05
    feed = {"input_ids": np.arange(1, 31)[None], "position_ids": np.arange(30)[None], "logits_index": np.array([[29]])}
    last, truth = session.run("decoder", feed, one)["logits"][0, 0], decoder.logits(list(range(1, 31)))[-1]
    assert np.linalg.norm(last - truth) / np.linalg.norm(truth) < 0.05


@pytest.mark.parametrize(("attention", "told"), [("auto", ["1", None]), ("portable", [None, None])])
def test_what_decodes_from_an_int8_cache_is_told_to_do_without_flash_attention(
    decoder: Decoder, tmp_path: Path, text: Path, attention: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = params("int8", kv_cache="int8", calibration_tokens=512, block_size=16)
    built = build(decoder, tmp_path / "package", attention=attention, quantization=said, calibration=text, prefill=True)
    variable, seen, load = "ORT_GQA_DISABLE_FLASH_ATTENTION", [], ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda *a, **k: seen.append(os.environ.get(variable)) or load(*a, **k))

    open_session(built, threads=1)

    assert seen == told
    assert variable not in os.environ
