"""A GGUF file -> the model folder that it stands for: config, tokenizer, and its tensors in safetensors.

transformers says which tensor is which weight, and how llama.cpp laid it out anew. That is tried on numbers that tell
the places of a matrix apart: where only whole rows change places, or all of it is turned, its blocks stay as they are.
The parts of transformers that know GGUF are private: used here only.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from qeffbuild.errors import AbsentError, ModelError
from qeffbuild.models.files import CONFIG, TOKENIZER, WEIGHTS
from qeffbuild.models.formats.door import KEY
from qeffbuild.models.gguf_config import FREQUENCIES, completed
from qeffbuild.models.weights import DTYPES

SUFFIX = ".ggml"  # of tensors that hold blocks
_PLAIN = ("F64", "F32", "F16", "BF16")
_STORED = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}  # where what was done to the values left them such


def convert_gguf(leaf: Path, file: Path, out: Path, progress: Callable[[float, str], None]) -> None:
    """Writes the folder. Files beside the GGUF file count where the folder was named; blocks are mapped, not read."""
    if find_spec("gguf") is None:
        raise AbsentError("gguf.absent", "gguf cannot be imported", hint="pip install 'qeffbuild[gguf]'")
    try:
        taken = _taken(file, progress)
    # Three libraries read the file here, and what they raise has no common base.
    except Exception as problem:
        first = " ".join(str(problem).split()) or type(problem).__name__
        hint = "fetch the file again, or use the checkpoint in safetensors that it was made from"
        raise ModelError("model.unsupported", f"{file.name}: {first:.160}", where=str(file), hint=hint) from problem
    out.mkdir()
    write_safetensors(taken.arrays, out / WEIGHTS)
    said = {**taken.config, KEY: {"quant_method": "gguf", "tensors": taken.blocks}} if taken.blocks else taken.config
    (out / CONFIG).write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", "utf-8")
    beside = [path for pattern in TOKENIZER for path in leaf.glob(pattern)] if leaf.is_dir() else []
    for path in beside:
        (out / path.relative_to(leaf)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / path.relative_to(leaf))
    if not beside:
        _write_tokenizer(file, out)


@dataclass(slots=True)
class _Taken:
    """Arrays by the names that they are stored under; of those that hold blocks, what they are and how they lie."""

    config: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    blocks: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class _Rules:
    """transformers' own for this model: tensors' names, and what is done to their values."""

    names: Mapping[str, str]
    processor: Any
    merged: dict[str, Any] = field(default_factory=dict)  # weights that it puts together of several tensors: experts
    unread: list[str] = field(default_factory=list)  # tensors that the model has no place for

    def apply(self, name: str, values: np.ndarray) -> tuple[np.ndarray, str | None]:
        said = {"tensor_key_mapping": self.names, "parsed_parameters": {"tensors": self.merged}}
        found = self.processor.process(weights=values, name=name, **said)
        if found.name is not None and found.name not in self.names:
            self.unread.append(name)
        return found.weights, self.names.get(found.name)


def _taken(file: Path, progress: Callable[[float, str], None]) -> _Taken:
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers import modeling_gguf_pytorch_utils as known

    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    reader = GGUFReader(file)
    config = completed(config, reader)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    architecture = known.read_field(reader, "general.architecture")[0]
    processor = known.TENSOR_PROCESSORS.get(architecture, known.TensorProcessor)(config=config.to_dict())
    rules = _Rules(known.get_gguf_hf_weights_map(model, processor), processor)
    taken = _Taken({**config.to_dict(), "architectures": [type(model).__name__]})
    for place, tensor in enumerate(reader.tensors):
        progress(place / len(reader.tensors), f"reading {tensor.name}")
        if tensor.name not in FREQUENCIES:  # the configuration has them
            _take(taken, tensor, rules)
    if rules.unread:
        raise ValueError(f"transformers' {config.model_type} has no place for {rules.unread[0]}")
    taken.arrays |= {name: value.float().numpy() for name, value in rules.merged.items()}
    return taken


def _take(taken: _Taken, tensor: Any, rules: _Rules) -> None:
    from gguf import dequantize

    kind, shape = tensor.tensor_type.name, tuple(int(size) for size in tensor.shape[::-1])
    if kind not in _PLAIN and len(shape) == 2 and tensor.name in rules.names:
        place = _place(rules, tensor.name, shape)
        if place is not None:
            name, rows = rules.names[tensor.name], place.rows
            taken.arrays[f"{name}{SUFFIX}"] = tensor.data if rows is None else tensor.data[rows]
            taken.blocks[name] = {"type": kind, "shape": list(shape), "turned": place.is_turned}
            return
    values, named = rules.apply(tensor.name, dequantize(tensor.data, tensor.tensor_type))
    if named is not None:
        stored = values.astype(_STORED.get(kind, np.float32))
        taken.arrays[named] = stored if np.array_equal(stored, values) else values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's rows go: into another order, unless `rows` is None; `is_turned` where they become columns."""

    rows: np.ndarray | None = None
    is_turned: bool = False


def _place(rules: _Rules, name: str, shape: tuple[int, ...]) -> _Place | None:
    """What is done to a matrix, if whole rows are all that moves."""
    probe = np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape)
    found, _ = rules.apply(name, probe)
    if found is probe:
        return _Place()
    if found.shape == shape[::-1] and np.array_equal(found.T, probe):
        return _Place(is_turned=True)
    rows = found[:, 0] // shape[1]
    return _Place(rows) if found.shape == shape and np.array_equal(found, probe[rows]) else None


def write_safetensors(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """One array after another: what is mapped from a file passes through memory and does not stay."""
    words = {word: said for said, (word, _) in DTYPES.items()}
    header, at = {}, 0
    for name, array in arrays.items():
        data_offsets = [at, at := at + array.nbytes]
        header[name] = {"dtype": words[array.dtype.name], "shape": list(array.shape), "data_offsets": data_offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _write_tokenizer(file: Path, out: Path) -> None:
    """As the file spells it; a file without a vocabulary leaves none, and the check step says so."""
    from transformers import AutoTokenizer

    with contextlib.suppress(Exception):
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True).save_pretrained(out)
