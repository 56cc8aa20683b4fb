"""What a GGUF file says of its model and transformers' reader leaves aside -> the configuration, completed.

Keys as in llama.cpp's `gguf-py/gguf/constants.py`; frequencies of rotary embeddings lie in tensors there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# A key behind the architecture's name -> the configuration's, where it has one.
_SAME = {
    "context_length": "n_positions",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
FREQUENCIES = {"rope_freqs.weight": "both", "rope_factors_long.weight": "long", "rope_factors_short.weight": "short"}
_EMBEDDING = "token_embd.weight"
# How Llama 3.1 and those after it stretch: the only numbers that this rule was ever used with.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def completed(config: Any, reader: Any) -> Any:
    """A configuration of the same class, with what the file says of sizes, windows, caps and rotary frequencies."""
    said = config.to_dict()
    found = _keys(reader)
    said |= {name: found[key] for key, name in _SAME.items() if key in found and name in said and found[key]}
    tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name in (*FREQUENCIES, _EMBEDDING)}
    if _EMBEDDING in tensors and "vocab_size" in said:
        said["vocab_size"] = int(tensors[_EMBEDDING].shape[1])
    factors = {FREQUENCIES[name]: np.array(tensors[name].data, np.float32) for name in FREQUENCIES if name in tensors}
    rope = said.get("rope_parameters")
    if isinstance(rope, dict):
        # Where kinds of layers have frequencies of their own, those that see everything are meant.
        own = rope["full_attention"] if isinstance(rope.get("full_attention"), dict) else rope
        if own.get("rope_type", "default") == "default":
            own |= _scaling(found, factors, own, said["max_position_embeddings"])
    return type(config).from_dict(said)


def _keys(reader: Any) -> dict[str, Any]:
    """Keys of the file behind the name of its architecture."""
    architecture = reader.fields["general.architecture"].contents()
    behind = f"{architecture}."
    return {
        key.removeprefix(behind): field.contents() for key, field in reader.fields.items() if key.startswith(behind)
    }


def _scaling(
    found: Mapping[str, Any], factors: Mapping[str, np.ndarray], rope: Mapping[str, Any], longest: int
) -> dict[str, Any]:
    """In transformers' words; nothing where frequencies are as they come."""
    original = int(found.get("rope.scaling.original_context_length", longest))
    if "both" in factors and (stretch := _as_llama3(factors["both"], rope.get("rope_theta", 1e4))):
        return {"rope_type": "llama3", "factor": stretch, **_LLAMA3}
    if factors:
        long, short = factors.get("long", factors.get("both")), factors.get("short", factors.get("both"))
        if long is None or short is None:
            raise ValueError("factors of long and of short texts belong together, and one is missing")
        return {
            "rope_type": "longrope",
            "long_factor": long.tolist(),
            "short_factor": short.tolist(),
            "attention_factor": float(found.get("rope.scaling.attn_factor", 1.0)),
            "original_max_position_embeddings": original,
        }
    kind = found.get("rope.scaling.type", "linear" if "rope.scale_linear" in found else "none")
    if kind == "none":
        return {}
    factor = float(found.get("rope.scaling.factor", found.get("rope.scale_linear", 1.0)))
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    raise ValueError(f"rope.scaling.type {kind!s:.40} is not known without factors of its own")


def _as_llama3(factors: np.ndarray, theta: float) -> float | None:
    """The stretch of the slowest frequencies, if all follow Llama 3's rule."""
    stretch = float(factors.max())
    turns = (
        _LLAMA3["original_max_position_embeddings"] * theta ** -(np.arange(factors.size) / factors.size) / (2 * np.pi)
    )
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return stretch if np.allclose(factors, 1 / ((1 - smooth) / stretch + smooth), rtol=1e-3) else None
