"""Checkpoints as other tools quantize them, made of a plain one: each weight as stored, and what it comes to.

Written from the formats' descriptions and apart from the reader, so that the two can disagree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from qeffbuild.models.gguf import write_safetensors

Stored = dict[str, np.ndarray]
Made = tuple[Stored, np.ndarray]  # tensors by their endings, and the weight [N, K] that they stand for
GROUP = 32


def into_words(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Small numbers of each row -> int32, lowest bits first."""
    out = np.zeros((len(numbers), numbers.shape[1] * bits // 32), np.uint32)
    for at in range(numbers.shape[1]):
        for bit in range(bits):
            place = at * bits + bit
            out[:, place // 32] |= ((numbers[:, at].astype(np.uint32) >> bit) & 1) << np.uint32(place % 32)
    return out.view(np.int32)


def grouped(weight: np.ndarray, bits: int, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Numbers [N, K], float16 scales and zeros [N, G], and what they stand for."""
    most, count = (1 << bits) - 1, int(group.max()) + 1
    scales = np.empty((len(weight), count), np.float16)
    zeros = np.empty((len(weight), count), np.int64)
    for at in range(count):
        part = weight[:, group == at]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        scales[:, at] = np.maximum((high - low) / most, 1e-4)
        zeros[:, at] = np.clip(np.rint(-low / scales[:, at].astype(np.float32)), 0, most)
    each = scales.astype(np.float32)[:, group]
    numbers = np.clip(np.rint(weight / each) + zeros[:, group], 0, most).astype(np.int64)
    return numbers, scales, zeros, (numbers - zeros[:, group]).astype(np.float32) * each


def gptq(weight: np.ndarray, bits: int = 4, permuted: bool = False, version: int = 1, size: int = GROUP) -> Made:
    columns = weight.shape[1]
    group = np.arange(columns) // size
    if permuted:
        group = np.random.default_rng(columns).permutation(group)
    numbers, scales, zeros, value = grouped(weight, bits, group)
    one_less = into_words(np.ones_like(zeros.T), bits) if version == 1 else np.int32(0)
    stored = {
        "qweight": into_words(numbers, bits).T,
        "qzeros": into_words(zeros.T, bits) - one_less,  # of whole words
        "scales": scales.T,
        "g_idx": group.astype(np.int32),
    }
    return stored, value


def awq(weight: np.ndarray, size: int = GROUP) -> Made:
    numbers, scales, zeros, value = grouped(weight, 4, np.arange(weight.shape[1]) // size)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # the column that each nibble holds

    def words(rows: np.ndarray) -> np.ndarray:
        return into_words(rows.reshape(len(rows), -1, 8)[..., order].reshape(rows.shape), 4)

    return {"qweight": words(numbers.T), "qzeros": words(zeros.T), "scales": scales.T}, value


def pack_quantized(weight: np.ndarray, symmetric: bool = True, size: int = GROUP) -> Made:
    group = np.arange(weight.shape[1]) // size
    numbers, scales, zeros, value = grouped(weight, 4, group)
    stored: Stored = {"weight_shape": np.array(weight.shape, np.int64), "weight_scale": scales}
    if symmetric:
        half = np.abs(weight).reshape(len(weight), -1, size).max(-1) / 7
        stored["weight_scale"] = scales = half.astype(np.float16)
        each = scales.astype(np.float32)[:, group]
        signed = np.clip(np.rint(weight / each), -8, 7)
        numbers, value = (signed + 8).astype(np.int64), (signed * each).astype(np.float32)
    else:
        stored["weight_zero_point"] = into_words(zeros.T, 4).T
    return {**stored, "weight_packed": into_words(numbers, 4)}, value


def int_quantized(weight: np.ndarray) -> Made:
    scales = (np.abs(weight).max(1, keepdims=True) / 127).astype(np.float32)
    numbers = np.rint(weight / scales).astype(np.int8)
    return {"weight": numbers, "weight_scale": scales}, numbers.astype(np.float32) * scales


def float_quantized(weight: np.ndarray, per_tensor: bool = False) -> Made:
    most = np.abs(weight).max().reshape(1) if per_tensor else np.abs(weight).max(1, keepdims=True)
    scales = (most / 448).astype(np.float32)
    numbers = (weight / scales).astype(ml_dtypes.float8_e4m3fn)
    stored = {"weight": numbers, "weight_scale": scales, "input_scale": np.ones(1, np.float32)}
    return stored, numbers.astype(np.float32) * scales


def fp8_blocks(weight: np.ndarray, block: tuple[int, int] = (GROUP, GROUP)) -> Made:
    high, wide = block
    rows, columns = -(-weight.shape[0] // high), -(-weight.shape[1] // wide)
    scales = np.empty((rows, columns), np.float32)
    numbers = np.empty(weight.shape, ml_dtypes.float8_e4m3fn)
    value = np.empty(weight.shape, np.float32)
    for row in range(rows):
        for column in range(columns):
            part = np.s_[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
            scales[row, column] = np.abs(weight[part]).max() / 448
            numbers[part] = (weight[part] / scales[row, column]).astype(ml_dtypes.float8_e4m3fn)
            value[part] = numbers[part].astype(np.float32) * scales[row, column]
    return {"weight": numbers, "weight_scale_inv": scales}, value


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def float_quantized_blocks(weight: np.ndarray) -> Made:
    stored, value = fp8_blocks(weight, (48, 48))
    return {"weight": stored["weight"], "weight_scale": stored["weight_scale_inv"]}, value


def nvfp4(weight: np.ndarray) -> Made:
    parts = weight.reshape(len(weight), -1, 16)
    whole = np.array([448 * 6 / np.abs(weight).max()], np.float32)
    scales = (np.abs(parts).max(-1) / 6 * whole).astype(ml_dtypes.float8_e4m3fn)
    return _e2m1(parts, scales.astype(np.float32) / whole, {"weight_scale": scales, "weight_global_scale": whole})


def packed_mxfp4(weight: np.ndarray) -> Made:
    parts = weight.reshape(len(weight), -1, 32)
    exponents = np.floor(np.log2(np.abs(parts).max(-1))) - 2
    return _e2m1(parts, 2.0**exponents, {"weight_scale": (exponents + 127).astype(np.uint8)})


def _e2m1(parts: np.ndarray, scales: np.ndarray, stored: Stored) -> Made:
    codes = np.abs((parts / scales[..., None])[..., None] - E2M1).argmin(-1).astype(np.uint8)
    value = (E2M1[codes] * scales[..., None]).reshape(len(parts), -1).astype(np.float32)
    codes = codes.reshape(len(parts), -1)
    return {**stored, "weight_packed": codes[:, 0::2] | (codes[:, 1::2] << 4)}, value


def mxfp8(weight: np.ndarray) -> Made:
    parts = weight.reshape(len(weight), -1, 32)
    exponents = np.floor(np.log2(np.abs(parts).max(-1, keepdims=True))) - 8
    numbers = np.clip(parts / 2.0**exponents, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    value = (numbers.astype(np.float32) * 2.0**exponents).reshape(weight.shape).astype(np.float32)
    return {"weight": numbers.reshape(weight.shape), "weight_scale": (exponents[..., 0] + 127).astype(np.uint8)}, value


def bnb_int8(weight: np.ndarray) -> Made:
    most = np.abs(weight).max(1).astype(np.float32)
    numbers = np.rint(weight * (127 / most[:, None])).astype(np.int8)
    stored = {"weight": numbers, "SCB": most, "weight_format": np.zeros(1, np.uint8)}
    return stored, numbers.astype(np.float32) * (most[:, None] / 127)


def bnb_nf4(weight: np.ndarray, nested: bool = True, size: int = 64, stored_as: Any = np.uint8) -> Made:
    table = np.linspace(-1, 1, 16, dtype=np.float32) ** 3
    flat = np.append(weight, np.zeros(-weight.size % size, np.float32)).reshape(-1, size)
    most = np.abs(flat).max(1).astype(np.float32)
    stored: Stored = {"weight.quant_map": table}
    said: dict[str, Any] = {"quant_type": "nf4", "blocksize": size, "shape": list(weight.shape), "dtype": "float16"}
    if nested:
        offset, codes = float(most.mean()), np.linspace(-1, 1, 256, dtype=np.float32)
        coarse = np.array([np.abs(part - offset).max() for part in np.split(most, range(256, len(most), 256))])
        spread = np.repeat(coarse.astype(np.float32), 256)[: len(most)]
        chosen = np.abs((most - offset)[:, None] / spread[:, None] - codes).argmin(1).astype(np.uint8)
        stored |= {"weight.absmax": chosen, "weight.nested_absmax": coarse.astype(np.float32)}
        stored["weight.nested_quant_map"] = codes
        said |= {"nested_blocksize": 256, "nested_offset": offset, "nested_dtype": "float32"}
        most = codes[chosen] * spread + np.float32(offset)
    else:
        stored["weight.absmax"] = most
    codes4 = np.abs(flat[..., None] / most[:, None, None] - table).argmin(-1).astype(np.uint8).reshape(-1)
    codes4 = codes4[: weight.size]
    stored["weight"] = ((codes4[0::2] << 4) | codes4[1::2]).view(stored_as).reshape(-1, 1)
    stored["weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    value = table[codes4] * np.repeat(most, size)[: weight.size]
    return stored, value.reshape(weight.shape)


CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048, "head_dim": 16,
    "max_position_embeddings": 64, "tie_word_embeddings": True, "eos_token_id": 2, "bos_token_id": 1, "rms_norm_eps": 1e-5,
}  # fmt: skip


def plain_llama(folder: Path, tokenizer: Path) -> Path:
    """Two random layers, as an unquantized checkpoint."""
    rng = np.random.default_rng(11)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (2048, 64), "model.norm.weight": (64,)}
    for layer in range(2):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (64 if name in "qo" else 32, 64) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (128, 64) for name in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (64, 128)}
        shapes |= {f"{at}.{name}_layernorm.weight": (64,) for name in ("input", "post_attention")}
    weights = {
        name: (rng.standard_normal(shape) * 0.1 + (len(shape) == 1)).astype(np.float16)
        for name, shape in shapes.items()
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    return folder


# name -> how weights are encoded, and what config.json says of it
ENCODERS: dict[str, tuple[Callable[[np.ndarray], Made], dict[str, Any]]] = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "desc_act": False}),
    "gptq act-order": (
        lambda weight: gptq(weight, permuted=True),
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "desc_act": True},
    ),
    "gptq 8 bits": (lambda weight: gptq(weight, bits=8), {"quant_method": "gptq", "bits": 8, "group_size": GROUP}),
    "gptq 3 bits, v2": (
        lambda weight: gptq(weight, bits=3, version=2),
        {"quant_method": "gptq", "bits": 3, "group_size": GROUP, "checkpoint_format": "gptq_v2"},
    ),
    "gptq of weights above zero": (
        lambda weight: gptq(np.abs(weight)),
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False},
    ),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}),
    "pack-quantized": (pack_quantized, {"quant_method": "compressed-tensors", "format": "pack-quantized"}),
    "pack-quantized with zeros": (
        lambda weight: pack_quantized(weight, symmetric=False),
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    ),
    "int-quantized": (int_quantized, {"quant_method": "compressed-tensors", "format": "int-quantized"}),
    "float-quantized": (float_quantized, {"quant_method": "compressed-tensors", "format": "float-quantized"}),
    "float-quantized in blocks": (
        float_quantized_blocks,
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {"group_0": {"weights": {"strategy": "block", "block_structure": [48, 48]}}},
        },
    ),
    "mxfp8": (mxfp8, {"quant_method": "compressed-tensors", "format": "mxfp8-quantized"}),
    "nvfp4": (nvfp4, {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}),
    "packed mxfp4": (packed_mxfp4, {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}),
    "fp8 in blocks": (fp8_blocks, {"quant_method": "fp8", "weight_block_size": [GROUP, GROUP]}),
    "bitsandbytes int8": (bnb_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "bitsandbytes nf4": (bnb_nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "bitsandbytes nf4, a short block, under another dtype": (
        lambda weight: bnb_nf4(weight, nested=False, size=96, stored_as=ml_dtypes.bfloat16),
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
    ),
}


def encode(plain: Path, folder: Path, name: str) -> dict[str, np.ndarray]:
    """The checkpoint in `plain` with its layers' matrices encoded, in `folder`; what all its weights come to."""
    encoder, said = ENCODERS[name]
    weights: dict[str, np.ndarray] = load_file(plain / "model.safetensors")
    stored, values = {}, {}
    for key, weight in weights.items():
        values[key] = weight.astype(np.float32)
        if weight.ndim != 2 or ".layers." not in key:
            stored[key] = weight
            continue
        made, values[key] = encoder(values[key])
        base = key.removesuffix(".weight")
        stored |= {f"{base}.{ending}": np.ascontiguousarray(tensor) for ending, tensor in made.items()}
    folder.mkdir(parents=True)
    for file in plain.iterdir():
        if file.suffix == ".json" and file.name != "config.json":
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}, indent=1))
    write_safetensors({name: np.asarray(array) for name, array in stored.items()}, folder / "model.safetensors")
    return values
