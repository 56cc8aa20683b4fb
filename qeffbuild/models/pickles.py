"""Weights in pickle files, whose reading was allowed -> the same weights in safetensors files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError
from qeffbuild.models.files import INDEX, WEIGHTS, listing, pickle_files


def convert(folder: Path, out: Path, progress: Callable[[float, str], None]) -> None:
    """Write a model folder like `folder` with safetensors in the place of pickles; one file is in memory at a time.

    Only tensors are unpickled: a file that holds anything else is refused, whatever was allowed.
    """
    out.mkdir()
    for name in listing(folder):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, out / name)
    pickles = [name for name in pickle_files(folder) if name.endswith(".bin")]
    weight_map: dict[str, str] = {}
    for number, name in enumerate(pickles, 1):
        progress((number - 1) / len(pickles), f"converting {name}")
        shard = WEIGHTS if len(pickles) == 1 else f"model-{number:05}-of-{len(pickles):05}.safetensors"
        weight_map |= dict.fromkeys(_convert_file(folder / name, out / shard), shard)
    if len(pickles) > 1:
        (out / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1, sort_keys=True))


def _convert_file(source: Path, target: Path) -> list[str]:
    import torch
    from safetensors.torch import save_file

    try:
        loaded: Any = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as problem:
        found = f"{source.name}: no pickle of tensors alone: {next(iter(str(problem).splitlines()), '')}"
        raise ModelError("model.pickle", f"{found:.200}", where=str(source)) from problem
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelError("model.pickle", f"{source.name}: no table of tensors", where=str(source))
    # Tied weights share memory in a pickle; safetensors has no word for that, so each gets its own bytes.
    save_file({name: tensor.clone().contiguous() for name, tensor in loaded.items()}, target, metadata={"format": "pt"})
    return list(loaded)
