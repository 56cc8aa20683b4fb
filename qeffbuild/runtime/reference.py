"""A model folder -> PyTorch's own network of it in float32, whatever the checkpoint stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from qeffbuild.graph.decode import decode
from qeffbuild.models import Facts, Tensor, read_facts


def network_of(folder: Path) -> Any:
    """A checkpoint that another tool quantized is decoded as the package's weights are, without that tool."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as talk

    talk.disable_progress_bar()  # stderr has one voice, and it is ours
    said = json.loads((folder / "config.json").read_text("utf-8"))
    if not said.get("quantization_config"):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    from transformers import CONFIG_MAPPING

    said.pop("quantization_config")
    config = CONFIG_MAPPING[said["model_type"]].from_dict(said)
    state = {name: torch.from_numpy(array) for name, array in _decoded(folder, read_facts(folder)).items()}
    cls: Any = AutoModelForCausalLM._model_mapping[type(config)]
    return cls.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32).eval()


def _decoded(folder: Path, facts: Facts) -> dict[str, np.ndarray]:
    """Every weight as float32 under its plain name."""
    found = {}
    for name, tensor in facts.plain_tensors.items():
        encoded = facts.encodings.get(name)
        if encoded is None:
            found[name] = _read(folder, tensor).astype(np.float32)
            continue
        parts = {role: _read(folder, facts.tensors[part]) for role, part in encoded.parts.items()}
        found[name] = np.ascontiguousarray(decode(encoded.format, parts, encoded.options, encoded.shape))
    return found


def _read(folder: Path, tensor: Tensor) -> np.ndarray:
    dtype = np.dtype(getattr(ml_dtypes, tensor.dtype, tensor.dtype))
    shape = (tensor.nbytes,)
    raw = np.memmap(folder / tensor.file, np.uint8, mode="r", offset=tensor.offset, shape=shape)
    return np.asarray(raw).view(dtype).reshape(tensor.shape)
