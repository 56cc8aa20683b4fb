"""The folder of a plain random model -> the same as a checkpoint that another tool quantized, as its configuration says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.models import encoders

Encoder = Callable[[np.ndarray], encoders.Made]
_WEIGHTS = "model.safetensors"


def quantize(folder: Path, said: Mapping[str, Any]) -> None:
    """Encodes every matrix of a layer; the head and embeddings stay, as these tools leave them."""
    encoder, left = _encoder(said), [*(said.get("ignore") or ()), *(said.get("modules_to_not_convert") or ())]
    stored: dict[str, np.ndarray] = {}
    for name, weight in load_file(folder / _WEIGHTS).items():
        module = name.removesuffix(".weight")
        if weight.ndim != 2 or ".layers." not in name or any(skipped in module for skipped in left):
            stored[name] = weight
            continue
        made, _ = encoder(weight.astype(np.float32))
        stored |= {f"{module}.{ending}": np.ascontiguousarray(tensor) for ending, tensor in made.items()}
    save_file(stored, folder / _WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": dict(said)}, indent=1))


def _encoder(said: Mapping[str, Any]) -> Encoder:
    method, size = said["quant_method"], _positive(said.get("group_size"))
    if method == "awq":
        return lambda weight: encoders.awq(weight, size or weight.shape[1])
    if method == "gptq":
        version = 2 if said.get("checkpoint_format") == "gptq_v2" else 1
        return lambda weight: encoders.gptq(
            weight, said["bits"], bool(said.get("desc_act")), version, size or weight.shape[1]
        )
    if method == "fp8":
        block = said.get("weight_block_size")
        return (lambda weight: encoders.fp8_blocks(weight, tuple(block))) if block else _one_scale
    if method == "compressed-tensors":
        return _compressed(next(iter(said["config_groups"].values()))["weights"])
    raise ValueError(f"no encoder writes {method}")


def _compressed(weights: Mapping[str, Any]) -> Encoder:
    if weights["type"] == "float":
        return _one_scale if weights.get("strategy") == "tensor" else encoders.float_quantized
    if weights["num_bits"] == 8:
        return encoders.int_quantized
    size = _positive(weights.get("group_size"))
    return lambda weight: encoders.pack_quantized(weight, bool(weights.get("symmetric", True)), size or weight.shape[1])


def _one_scale(weight: np.ndarray) -> encoders.Made:
    return encoders.float_quantized(weight, per_tensor=True)


def _positive(size: int | None) -> int | None:
    return size if size is not None and size > 0 else None
