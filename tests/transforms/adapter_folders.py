"""Adapters as PEFT saves them, of random numbers, and the model with one of them merged in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file


def write_adapter(
    folder: Path, model: Any, targets: Sequence[str], *, rank: int = 4, seed: int = 1, **more: Any
) -> Path:
    """`targets` are the last parts of modules' paths."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in targets:
            rows, columns = module.weight.shape if hasattr(module, "in_features") else module.weight.shape[::-1]
            path = f"base_model.model.{name}"
            tensors[f"{path}.lora_A.weight"] = random.normal(0, 0.5, (rank, columns)).astype(np.float32)
            tensors[f"{path}.lora_B.weight"] = (
                random.normal(0, 0.5, (rows, rank)).astype(np.float32).reshape(rows, rank)
            )
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**said, **more}))
    return folder


def merged(model: Any, folder: Path, scale: float = 2.0) -> Any:
    """The same model, changed; PEFT's own arithmetic of a merge."""
    import torch

    tensors = load_file(folder / "adapter_model.safetensors")
    for name, a in tensors.items():
        if "lora_A" in name:
            module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            change = torch.from_numpy(tensors[name.replace("lora_A", "lora_B")] @ a) * scale
            with torch.no_grad():
                module.weight += change if hasattr(module, "in_features") else change.T
    return model
