"""A compiled graph and the graph that it was compiled from -> how far their logits are apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qeffbuild.backends.qnn.htp.provider import open_reference, stdout_to_stderr

_DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
_TOKENS = 64  # different tokens are enough


@dataclass(frozen=True, slots=True)
class Inputs:
    """What both are fed: a first chunk of every row, of tokens that are always the same, into an empty cache."""

    arrays: dict[str, np.ndarray]

    @classmethod
    def of(cls, session: Any) -> Inputs:
        arrays = {value.name: np.zeros(value.shape, _DTYPES[value.type]) for value in session.get_inputs()}
        rows, length = arrays["position_ids"].shape
        vocabulary = next(value.shape[-1] for value in session.get_outputs() if value.name == "logits")
        tokens = np.random.default_rng(0).integers(0, min(_TOKENS, vocabulary), (rows, length))
        arrays["input_ids"][...] = tokens
        arrays["position_ids"][...] = np.arange(length)
        arrays["logits_index"][...] = length - 1
        if rows > 1:  # the last row idles: it must do no harm
            arrays["position_ids"][-1] = -1
        return cls(arrays)


def largest_difference(session: Any, source: Path, inputs: Inputs) -> float:
    """In standard deviations of the processor's logits."""
    with stdout_to_stderr():
        (ours,) = session.run(["logits"], inputs.arrays)
    (theirs,) = open_reference(source).run(["logits"], inputs.arrays)
    busy = inputs.arrays["position_ids"].max(axis=1) >= 0
    return float(np.abs(ours[busy] - theirs[busy]).max() / theirs[busy].std())
