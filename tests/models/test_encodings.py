"""Checkpoints quantized by other tools: found, decoded to the values that their formats define, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from encoders import ENCODERS, GROUP, encode, plain_llama
from safetensors.numpy import load_file, save_file

from qeffbuild.errors import ModelError
from qeffbuild.graph.blocks import Blocks, restore
from qeffbuild.graph.decode import INTEGERS, evaluate_blocks, evaluate_decode
from qeffbuild.models import DEMO, Facts, read_facts
from qeffbuild.models.encodings import Encoded


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_llama(tmp_path_factory.mktemp("plain") / "model", DEMO)


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, 8-bit floats too, which safetensors' own numpy reader does not know."""
    content = (folder / "model.safetensors").read_bytes()
    return {
        name: np.frombuffer(content[said.offset : said.offset + said.nbytes], getattr(ml_dtypes, said.dtype, said.dtype))
        .reshape(said.shape)
        for name, said in read_facts(folder).tensors.items()
    }  # fmt: skip


def node(encoded: Encoded, **more: Any) -> ir.Node:
    said = {"format": encoded.format, "roles": list(encoded.parts), "options": json.dumps(dict(encoded.options))}
    inputs = [ir.Value(name=part) for part in encoded.parts.values()]
    return ir.node("Decode", inputs, {**said, "shape": list(encoded.shape), **more}, domain="qeffbuild")


@pytest.mark.parametrize("name", ENCODERS)
def test_a_decoded_weight_is_what_its_format_defines(plain: Path, tmp_path: Path, name: str) -> None:
    values = encode(plain, tmp_path / "model", name)

    facts = read_facts(tmp_path / "model")
    raw = tensors_of(tmp_path / "model")

    assert set(facts.encodings) == {key for key in values if "proj" in key}
    assert {key: list(tensor.shape) for key, tensor in facts.plain_tensors.items()} == {
        key: list(value.shape) for key, value in values.items()
    }
    for key, encoded in facts.encodings.items():
        parts = [raw[part] for part in encoded.parts.values()]
        (found,) = evaluate_decode(node(encoded), parts)
        np.testing.assert_allclose(found, values[key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name", [name for name in ENCODERS if "fp8" not in name and "float" not in name and "nf4" not in name]
)
def test_integers_are_kept_as_they_are_in_blocks(plain: Path, tmp_path: Path, name: str) -> None:
    values = encode(plain, tmp_path / "model", name)
    raw = tensors_of(tmp_path / "model")

    for key, encoded in read_facts(tmp_path / "model").encodings.items():
        bits = 8 if encoded.options["bits"] > 4 else 4
        said = {"bits": bits, "block_size": GROUP, "expert": -1}
        parts = [raw[part] for part in encoded.parts.values()]
        made = [evaluate_blocks(node(encoded, part=part, **said), parts)[0] for part in ("numbers", "scales", "zeros")]
        found = restore(Blocks(*made), bits=bits, columns=encoded.shape[1])

        wanted = values[key]
        if encoded.options.get("permuted"):
            wanted = wanted[:, evaluate_blocks(node(encoded, part="order", **said), parts)[0]]
        assert encoded.format in INTEGERS
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


def test_facts_come_back_from_their_file(plain: Path, tmp_path: Path) -> None:
    encode(plain, tmp_path / "model", "bitsandbytes nf4")
    facts = read_facts(tmp_path / "model")

    facts.save(tmp_path / "facts.json")

    assert Facts.load(tmp_path / "facts.json") == facts


def test_mxfp4_experts_decode_as_the_format_says() -> None:
    rng = np.random.default_rng(0)
    blocks, scales = rng.integers(0, 256, (2, 6, 3, 16), np.uint8), rng.integers(120, 130, (2, 6, 3), np.uint8)
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    encoded = Encoded(
        format="mxfp4", shape=(2, 96, 6), parts={"numbers": "b", "scales": "s"}, options={"bits": 8, "group_size": 32}
    )

    (found,) = evaluate_decode(node(encoded), [blocks, scales])
    said = {"bits": 8, "block_size": 32, "expert": 1}
    made = [evaluate_blocks(node(encoded, part=part, **said), [blocks, scales])[0] for part in ("numbers", "scales")]

    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(2, 6, 3, 32)
    wanted = (values[codes] * 2.0 ** (scales.astype(np.float32)[..., None] - 127)).reshape(2, 6, 96)
    np.testing.assert_array_equal(found, wanted.transpose(0, 2, 1))
    np.testing.assert_array_equal(restore(Blocks(made[0], made[1], None), bits=8, columns=96), wanted[1])


REFUSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a method that nobody reads": ("model.unsupported", "quant_method quip", {"quant_method": "quip"}),
    "no method": ("model.unsupported", "quant_method unknown", {"bits": 4}),
    "no bits": ("model.unsupported", "bits is None", {"quant_method": "gptq"}),
    "bits that do not exist": ("model.unsupported", "bits is 5", {"quant_method": "gptq", "bits": 5, "group_size": 32}),
    "another group size": ("model.config", "group_size 64", {"quant_method": "gptq", "bits": 4, "group_size": 64}),
    "another method's tensors": ("model.config", "no tensor is stored", {"quant_method": "fp8"}),
    "an awq version": ("model.unsupported", "awq version gemv", {"quant_method": "awq", "bits": 4, "version": "gemv"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_or_contradicts_the_weights_is_refused(plain: Path, tmp_path: Path, case: str) -> None:
    kind, says, config = REFUSED[case]
    encode(plain, tmp_path / "model", "gptq")
    said = json.loads((plain / "config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**said, "quantization_config": config}, indent=1))

    with pytest.raises(ModelError) as refused:
        read_facts(tmp_path / "model")

    assert (refused.value.kind, says in refused.value.message) == (kind, True), refused.value
    assert str(refused.value.where).endswith(tuple(f"config.json:{line}" for line in range(30)))


def test_a_part_that_is_missing_is_named(plain: Path, tmp_path: Path) -> None:
    encode(plain, tmp_path / "model", "awq")
    raw = load_file(tmp_path / "model/model.safetensors")
    del raw["model.layers.1.mlp.up_proj.scales"]
    save_file(raw, tmp_path / "model/model.safetensors")

    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.scales"):
        read_facts(tmp_path / "model")
