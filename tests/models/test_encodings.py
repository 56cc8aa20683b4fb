"""Checkpoints quantized by other tools: found, decoded to the values that their formats define, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from encoders import E2M1, ENCODERS, GROUP, encode, plain_llama
from safetensors.numpy import load_file, save_file

from qeffbuild.errors import ModelError
from qeffbuild.graph.blocks import Blocks, restore
from qeffbuild.graph.decode import INTEGERS, evaluate_blocks, evaluate_decode
from qeffbuild.models import DEMO, Facts, read_facts
from qeffbuild.models.formats.door import Encoded
from qeffbuild.models.gguf import write_safetensors


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
    "name", [name for name in ENCODERS if not any(word in name for word in ("fp8", "float", "nf4"))]
)
def test_integers_are_kept_as_they_are_in_blocks(plain: Path, tmp_path: Path, name: str) -> None:
    values = encode(plain, tmp_path / "model", name)
    raw = tensors_of(tmp_path / "model")

    for key, encoded in read_facts(tmp_path / "model").encodings.items():
        bits = 8 if encoded.options["bits"] > 4 else 4
        said = {"bits": bits, "block_size": min(GROUP, encoded.options["group_size"]), "expert": -1}
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
    encoded = Encoded(
        format="mxfp4", shape=(2, 96, 6), parts={"numbers": "b", "scales": "s"}, options={"bits": 8, "group_size": 32}
    )

    (found,) = evaluate_decode(node(encoded), [blocks, scales])
    said = {"bits": 8, "block_size": 32, "expert": 1}
    made = [evaluate_blocks(node(encoded, part=part, **said), [blocks, scales])[0] for part in ("numbers", "scales")]

    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(2, 6, 3, 32)
    wanted = (E2M1[codes] * 2.0 ** (scales.astype(np.float32)[..., None] - 127)).reshape(2, 6, 96)
    np.testing.assert_array_equal(found, wanted.transpose(0, 2, 1))
    np.testing.assert_array_equal(restore(Blocks(made[0], made[1], None), bits=8, columns=96), wanted[1])


REFUSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a method that nobody reads": ("model.unsupported", "quant_method quip", {"quant_method": "quip"}),
    "no method": ("model.unsupported", "quant_method unknown", {"bits": 4}),
    "no bits": ("model.unsupported", "bits is None", {"quant_method": "gptq"}),
    "bits that do not exist": ("model.unsupported", "bits is 5", {"quant_method": "gptq", "bits": 5, "group_size": 32}),
    "another group size": ("model.config", "group_size 64", {"quant_method": "gptq", "bits": 4, "group_size": 64}),
    "another method's tensors": ("model.config", "no tensor is stored", {"quant_method": "fp8"}),
    "a method that is a list": ("model.unsupported", "quant_method ['gptq']", {"quant_method": ["gptq"]}),
    "groups of nothing": ("model.unsupported", "group_size is 0", {"quant_method": "gptq", "bits": 4, "group_size": 0}),
    "a group size in words": (
        "model.unsupported", "group_size is '32'", {"quant_method": "awq", "bits": 4, "group_size": "32"},
    ),
    "blocks of a GGUF file": ("model.unsupported", "gguf in safetensors", {"quant_method": "gguf"}),
    "a sparse checkpoint": (
        "model.unsupported", "as marlin-24", {"quant_method": "compressed-tensors", "format": "marlin-24"},
    ),
    "an awq version": ("model.unsupported", "awq version gemv", {"quant_method": "awq", "bits": 4, "version": "gemv"}),
}  # fmt: skip


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


def begun_with(first: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda group: np.append(np.array([first], group.dtype), group[1:])


def said_anew(**said: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A note in JSON, changed; what is None is left out."""

    def changed(note: np.ndarray) -> np.ndarray:
        known = {**json.loads(note.tobytes()), **said}
        return np.frombuffer(json.dumps({k: v for k, v in known.items() if v is not None}).encode(), np.uint8)

    return changed


NOTE = "weight.quant_state.bitsandbytes__nf4"
# The checkpoint, one of its tensors, what is done to it (None: it is left out), and a word of what is said then.
DAMAGED: list[tuple[str, str, Callable[[np.ndarray], np.ndarray] | None, str]] = [
    ("gptq", "scales", np.transpose, "group_size 32"),
    ("gptq", "scales", lambda scales: scales.astype(np.int32), "stored as int32"),
    ("gptq", "qweight", np.ravel, "no matrix"),
    ("gptq", "qweight", lambda words: words.astype(np.int64), "stored as int64"),
    ("gptq", "qzeros", lambda words: words.astype(np.float32), "stored as float32"),
    ("gptq act-order", "g_idx", begun_with(99), "no order of 64 inputs in groups of 32"),
    ("gptq act-order", "g_idx", begun_with(-1), "no order of 64 inputs"),
    ("gptq act-order", "g_idx", np.zeros_like, "no order of 64 inputs"),
    ("gptq act-order", "g_idx", lambda group: group[:-8], "should be [64]"),
    ("awq", "qzeros", lambda words: words[:-1], "4 bits"),
    ("awq", "scales", None, "missing tensors"),
    ("pack-quantized", "weight_shape", np.negative, "-64 x -64"),
    ("pack-quantized", "weight_shape", lambda shape: shape[:1], "should be [2]"),
    ("pack-quantized", "weight_scale", lambda scales: scales[:-1], "weight_scale is [63, 2]"),
    ("pack-quantized with zeros", "weight_zero_point", None, "missing tensors"),
    ("pack-quantized with zeros", "weight_zero_point", lambda zeros: zeros[:, :-1], "should be [8, 2]"),
    ("int-quantized", "weight_scale", lambda scales: scales[:-1], "weight_scale is [63, 1]"),
    ("float-quantized", "weight_scale", lambda scales: scales[:-1], "weight_scale is [63, 1]"),
    ("float-quantized", "weight_scale", lambda scales: scales.astype(np.uint8), "blocks of 32"),
    ("fp8 in blocks", "weight_scale_inv", np.ravel, "blocks of [32, 32]"),
    ("bitsandbytes int8", "SCB", lambda scales: scales[:-1], "should be [64]"),
    ("bitsandbytes nf4", "weight", lambda codes: codes[:-9], "too short"),
    ("bitsandbytes nf4", "weight.absmax", lambda scales: scales[:-1], "blocks of 64"),
    ("bitsandbytes nf4", "weight.absmax", lambda scales: scales.astype(np.float32), "stored as float32"),
    ("bitsandbytes nf4", "weight.quant_map", lambda table: table[:15], "should be [16]"),
    ("bitsandbytes nf4", "weight.nested_absmax", None, "missing tensors"),
    ("bitsandbytes nf4", NOTE, lambda note: note[:-3], "does not say how"),
    ("bitsandbytes nf4", NOTE, said_anew(blocksize=0), "does not say how"),
    ("bitsandbytes nf4", NOTE, said_anew(shape=None), "does not say how"),
    ("bitsandbytes nf4", NOTE, said_anew(nested_offset="1"), "does not say how"),
]


@pytest.mark.parametrize(("name", "ending", "damage", "says"), DAMAGED)
def test_tensors_that_do_not_fit_together_are_refused_before_anything_is_built(
    plain: Path, tmp_path: Path, name: str, ending: str, damage: Callable[[np.ndarray], np.ndarray] | None, says: str
) -> None:
    encode(plain, tmp_path / "model", name)
    raw, key = tensors_of(tmp_path / "model"), f"model.layers.1.self_attn.q_proj.{ending}"
    whole = raw.pop(key)
    write_safetensors(raw if damage is None else {**raw, key: damage(whole)}, tmp_path / "model/model.safetensors")
    if name == "pack-quantized with zeros" and damage is None:
        add_to_config(tmp_path / "model", config_groups={"group_0": {"weights": {"symmetric": False}}})

    with pytest.raises(ModelError) as refused:
        read_facts(tmp_path / "model")

    assert (refused.value.exit_code, says in refused.value.message) == (2, True), refused.value


def add_to_config(folder: Path, **more: Any) -> None:
    said = json.loads((folder / "config.json").read_text())
    said["quantization_config"] |= more
    (folder / "config.json").write_text(json.dumps(said, indent=1))


def test_inputs_are_permuted_where_their_groups_say_so_and_not_where_they_are_not_filled_in(
    plain: Path, tmp_path: Path
) -> None:
    encode(plain, tmp_path / "gptq", "gptq act-order")
    add_to_config(tmp_path / "gptq", desc_act=False)
    encode(plain, tmp_path / "packed", "pack-quantized")
    raw = tensors_of(tmp_path / "packed")
    unfilled = {f"{key.removesuffix('.weight_packed')}.weight_g_idx": raw[key] for key in raw if "_packed" in key}
    inputs = {name: np.full(words.shape[1] * 8, -1, np.int32) for name, words in unfilled.items()}
    write_safetensors({**raw, **inputs}, tmp_path / "packed/model.safetensors")

    permuted, plainly = read_facts(tmp_path / "gptq"), read_facts(tmp_path / "packed")

    assert all(encoded.options["permuted"] for encoded in permuted.encodings.values())
    assert not any(encoded.options["permuted"] for encoded in plainly.encodings.values())
    assert plainly.plain_tensors.keys() == read_facts(plain).plain_tensors.keys()


def test_a_part_that_is_missing_is_named(plain: Path, tmp_path: Path) -> None:
    encode(plain, tmp_path / "model", "awq")
    raw = load_file(tmp_path / "model/model.safetensors")
    del raw["model.layers.1.mlp.up_proj.scales"]
    save_file(raw, tmp_path / "model/model.safetensors")

    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.scales"):
        read_facts(tmp_path / "model")
