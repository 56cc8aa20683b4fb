"""quantization_config and a table of tensors -> which weights are stored in other tensors, and how.

Read from names, shapes and a few bytes; no weight is touched. What each format means is in graph/decode.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qeffbuild.models.formats import METHODS
from qeffbuild.models.formats.door import KEY, Door, Encoded
from qeffbuild.models.weights import Tensor

Encodings = dict[str, Encoded]


def read_encodings(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Encodings:
    """Every encoded weight under the name that the plain one would have; none for a plain checkpoint."""
    said = config.get(KEY)
    if not said:
        return {}
    door = Door(folder, said if isinstance(said, Mapping) else {}, tensors)
    method = door.said.get("quant_method", "unknown")
    if not isinstance(method, str) or method not in METHODS:
        door.unsupported(f"quant_method {method!s:.40}", f"methods that are read: {', '.join(sorted(METHODS))}")
    found = dict(METHODS[method](door))
    if not found:
        door.contradicts(f"says quant_method {method}, but no tensor is stored that way")
    return found


def plain_tensors(tensors: Mapping[str, Tensor], encodings: Encodings) -> dict[str, Tensor]:
    """The table as an unquantized checkpoint would have it."""
    used = {name for encoded in encodings.values() for name in encoded.parts.values()}
    left = {name: tensor for name, tensor in tensors.items() if name not in used and not _is_side_note(name)}
    made = {
        name: Tensor(file="", offset=0, nbytes=0, dtype="float32", shape=encoded.shape)
        for name, encoded in encodings.items()
    }
    return {**left, **made}


def as_codes(tensors: Mapping[str, Tensor], encodings: Encodings) -> dict[str, Tensor]:
    """The table with codes of 4 bits as bytes, which bitsandbytes may store under the name of another dtype."""
    codes = {encoded.parts["numbers"] for encoded in encodings.values() if encoded.format == "bnb4"}
    as_bytes = {name: replace(tensors[name], dtype="uint8", shape=(tensors[name].nbytes,)) for name in codes}
    return {**tensors, **as_bytes}


def _is_side_note(name: str) -> bool:
    """Scales of activations and caches, which are rounded here by what they are, not by what was seen."""
    return name.rpartition(".")[2] in _SIDE_NOTES


_SIDE_NOTES = frozenset({
    "input_scale", "output_scale", "input_zero_point", "k_scale", "v_scale", "q_scale", "weight_shape", "act_scale",
    "activation_scale", "weight_format", "input_global_scale", "g_idx", "weight_g_idx",
})  # fmt: skip
