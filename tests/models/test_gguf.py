"""A GGUF file as the source of a model: its blocks, its layout, and the package that comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from encoders import plain_llama
from safetensors.numpy import load_file

from qeffbuild.actions import check, export, fetch, package
from qeffbuild.api.specs import admit, compose, known_task
from qeffbuild.backends.onnxruntime import lower
from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.errors import ModelError
from qeffbuild.executor.work import Work
from qeffbuild.graph import ggml
from qeffbuild.models import DEMO, Facts
from qeffbuild.models.files import gguf_of
from qeffbuild.models.formats.gguf import GGML
from qeffbuild.models.gguf_header import context_length
from qeffbuild.package import Package

KIND = gguf.GGMLQuantizationType
ROLES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
STORED = {"attn_v": KIND.Q8_0, "ffn_down": KIND.Q4_1}  # all other matrices in Q4_0


@pytest.mark.parametrize("kind", GGML)
def test_numbers_and_scales_come_to_what_ggml_says(kind: str) -> None:
    size, nbytes = gguf.GGML_QUANT_SIZES[KIND[kind]]
    raw = np.random.default_rng(3).integers(0, 256, (4, 3 * nbytes), np.uint8)
    for at in range(0, raw.shape[1], nbytes):  # scales of a sensible size
        place = at + (nbytes - 2 if kind.endswith("K") else 0)  # (of MXFP4 an exponent)
        raw[:, place : place + 2] = np.array([0.01], np.float16).view(np.uint8)

    numbers, zero, scales = ggml.INTEGERS[kind.lower()](raw)

    bits, group = GGML[kind]
    assert numbers.shape == (4, 3 * size)
    assert int(numbers.max()) < 1 << bits
    found = (numbers.astype(np.float32) - zero) * scales.repeat(group, axis=1)
    np.testing.assert_allclose(found, gguf.dequantize(raw, KIND[kind]), rtol=1e-6)


@pytest.mark.parametrize("words", [0, 1000])
def test_the_header_says_how_long_a_text_can_be(words: int, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_token_list([f"word {number}" for number in range(words)] or ["a"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_float32("number", 1.5)
    writer.add_context_length(77)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    assert context_length(tmp_path / "model.gguf") == 77


@pytest.mark.parametrize("size", [0, 3, 20, 40])
def test_a_header_that_is_cut_short_says_nothing(size: int, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "whole.gguf", "llama")
    writer.add_context_length(77)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    (tmp_path / "model.gguf").write_bytes((tmp_path / "whole.gguf").read_bytes()[:size])

    assert context_length(tmp_path / "model.gguf") is None


def write_llama(plain: Path, file: Path, **more: np.ndarray) -> None:
    """As llama.cpp's own converter lays a llama out: pairs that rotate together lie next to each other."""
    config = json.loads((plain / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config["vocab_size"])
    for name, stored in load_file(plain / "model.safetensors").items():
        array, target = stored.astype(np.float32), WHOLE.get(name, "")
        if not target:
            layer, _, rest = name.removeprefix("model.layers.").partition(".")
            target = f"blk.{layer}.{ROLES[rest.removesuffix('.weight')]}.weight"
        if "attn_q." in target or "attn_k." in target:
            heads = config["num_attention_heads" if "attn_q." in target else "num_key_value_heads"]
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if array.ndim == 1:
            writer.add_tensor(target, array)
            continue
        kind = next((kind for role, kind in STORED.items() if role in target), KIND.Q4_0)
        writer.add_tensor(target, gguf.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
    for name, array in more.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One GGUF file, with a tokenizer beside it."""
    home = tmp_path_factory.mktemp("gguf")
    plain = plain_llama(home / "plain", DEMO)
    made = home / "model"
    made.mkdir()
    write_llama(plain, made / "small.gguf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (made / name).write_bytes((plain / name).read_bytes())
    return made


def logits_of_transformers(plain: Path, tokens: np.ndarray) -> np.ndarray:
    """Of the plain checkpoint with each matrix rounded as its block in the file is, which llama.cpp's layout changes not."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig.from_dict(json.loads((plain / "config.json").read_text())))
    state = {}
    for name, stored in load_file(plain / "model.safetensors").items():
        kind = next(
            (kind for role, kind in STORED.items() if ROLES.get(".".join(name.split(".")[3:5]), "") == role), KIND.Q4_0
        )
        array = stored.astype(np.float32)
        state[name] = torch.from_numpy(gguf.dequantize(gguf.quantize(array, kind), kind) if array.ndim == 2 else array)
    model.load_state_dict(state, strict=False)
    with torch.inference_mode():
        return model.float().eval()(torch.from_numpy(tokens)).logits.numpy()


def carried_out(action: Any, out: Path, params: dict[str, Any], inputs: dict[str, Path], leaf: Path) -> Path:
    out.mkdir(parents=True)
    action.run(Work(name=out.name, params=params, inputs=inputs, leaves={"model": leaf}, out=out))
    return out


OF_FETCH = {"scale": "full", "allow_pickle": False, "trust_remote_code": False}


@pytest.mark.slow
def test_a_package_of_a_gguf_file_computes_with_its_blocks(folder: Path, tmp_path: Path) -> None:
    tokens = np.random.default_rng(5).integers(0, 2048, (1, 12))
    model = carried_out(fetch, tmp_path / "fetch", OF_FETCH, {}, folder)
    of_check = {
        "trust_remote_code": False, "allow_nonfinite": False, "allow_extended_context": False, "kv_head_replication": 1,
        "ctx_len": 32, "seq_len": [], "num_devices": 1, "mdp_num_partitions": 1,
    }  # fmt: skip
    carried_out(check, tmp_path / "check", of_check, {"model": model}, folder)
    of_export = {"dtype": "float32", "trust_remote_code": False}
    exported = carried_out(export, tmp_path / "export", of_export, {"model": model}, folder)
    lowered = carried_out(
        lower, tmp_path / "lower", {"attention": "auto", "recurrence": "chunked"}, {"graph": exported}, folder
    )
    of_package = {
        "backend": "onnxruntime", "session": "qeffbuild.backends.onnxruntime.session", "allow_nonfinite": False,
        "quantization": {"method": "none"},
        "specialization": {"batch_size": 1, "prefill_seq_len": 12, "ctx_len": 16},
    }  # fmt: skip
    inputs = {"graph": lowered, "model": model, "exported": exported}
    carried_out(package, tmp_path / "package", of_package, inputs, folder)

    session = open_session(Package.open(tmp_path / "package", verify=True), threads=1)
    positions = np.arange(12)[None]
    feed = {"input_ids": tokens, "position_ids": positions, "logits_index": positions}
    found = session.run("decoder", feed, session.allocate("decoder", 1, 16))["logits"]
    truth = logits_of_transformers(folder.parent / "plain", tokens)

    assert np.linalg.norm(found - truth) / np.linalg.norm(truth) < 0.02  # activations are rounded to 8 bits
    forms = Package.open(tmp_path / "package").manifest["quantization"]["checkpoint"]
    assert forms == {
        "4 bits in blocks of 32, as stored": 11,  # the tied head is one of them
        "8 bits in blocks of 32, as stored": 2,
        "floats: Q4_1 has no form in integers": 2,
    }
    assert Facts.load(model / "facts.json").config["model_type"] == "llama"


def test_a_folder_with_two_gguf_files_wants_one_of_them_named(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")

    with pytest.raises(ModelError) as caught:
        gguf_of(tmp_path)

    assert caught.value.hint == f"name one of them: model.path={tmp_path / 'a.gguf'}"
    assert gguf_of(tmp_path / "b.gguf") == tmp_path / "b.gguf"


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(20))
    out = tmp_path / "out"
    out.mkdir()

    with pytest.raises(ModelError) as caught:
        fetch.run(Work(name="fetch", params=OF_FETCH, inputs={}, leaves={"model": tmp_path / "a.gguf"}, out=out))

    assert (caught.value.kind, caught.value.exit_code) == ("model.unsupported", 2)


def test_a_tensor_that_the_model_has_no_place_for_is_refused(folder: Path, tmp_path: Path) -> None:
    write_llama(folder.parent / "plain", tmp_path / "a.gguf", **{"blk.0.attn_sinks.weight": np.ones(4, np.float32)})
    (tmp_path / "out").mkdir()
    leaves = {"model": tmp_path / "a.gguf"}

    with pytest.raises(ModelError, match=r"llama has no place for blk\.0\.attn_sinks\.weight"):
        fetch.run(Work(name="fetch", params=OF_FETCH, inputs={}, leaves=leaves, out=tmp_path / "out"))


def test_the_door_lets_a_gguf_file_in_as_a_model_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    spec = compose(["model=hf", f"model.path={tmp_path / 'a.gguf'}"])

    assert admit(spec) == spec
    assert known_task(spec) == "causal-lm"
