"""What PyTorch says to a few inputs, and what each of its layers hands on: made once, read by every gate."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from qeffbuild.gate.network import mapped_network
from qeffbuild.gate.prompts import LEVELS, prompts
from qeffbuild.models import Facts
from qeffbuild.models.tasks import CAUSAL, CLASSIFICATION, CTC, EMBEDDING

FILE, SAID = "reference.safetensors", "reference.json"
SAMPLES = (4800, 6400)
DISTRIBUTIONS = frozenset({CAUSAL, CLASSIFICATION, CTC})  # tasks whose output is scores of words or labels

Row = Mapping[str, np.ndarray]  # inputs by name, [1, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """`layers` are the names of what was listened to: what enters the first layer, then each layer by its path."""

    rows: tuple[Row, ...]
    outputs: tuple[np.ndarray, ...]  # [tokens, words] of each row, or [rows, width] where a text becomes one vector
    layers: tuple[str, ...]
    path: Path

    def handed_on(self, row: int, layer: int) -> np.ndarray:
        """[tokens, width]."""
        with safe_open(self.path, "numpy") as file:
            found: np.ndarray = file.get_tensor(f"layer.{row}.{layer}")
        return found


def refuse(task: str) -> str | None:
    """Why a task has no reference."""
    if task in (CAUSAL, EMBEDDING, CLASSIFICATION, CTC):
        return None
    return f"models of the task {task} are compared with PyTorch when they are exported, on a small one of their kind"


def make(
    folder: Path, facts: Facts, out: Path, *, level: str, wrap: Callable[[Any], Any], trust_remote_code: bool = False
) -> None:
    """Writes the two documents into `out`. `wrap` makes of a network what is exported: a pooling may be part of it."""
    import torch

    torch.set_num_threads(1)
    rows = list(_rows(folder, facts, level, trust_remote_code))
    tensors: dict[str, np.ndarray] = {}
    with mapped_network(folder, facts, trust_remote_code=trust_remote_code) as network:
        ask = wrap(network)
        for number, row in enumerate(rows):
            tensors |= {f"input.{number}.{name}": array for name, array in row.items()}
            with _listening(network) as heard:
                output = ask({name: torch.from_numpy(array) for name, array in row.items()})
            tensors[f"output.{number}"] = _flat(output)
            tensors |= {f"layer.{number}.{layer}": array for layer, array in enumerate(heard.values())}
    save_file(tensors, out / FILE)
    said = {"schema": 1, "rows": len(rows), "inputs": list(rows[0]), "layers": list(heard)}
    (out / SAID).write_text(json.dumps(said, indent=1) + "\n")


def load(folder: Path) -> Reference | str:
    """The reference, or why there is none."""
    said = json.loads((folder / SAID).read_text())
    if "skipped" in said:
        return str(said["skipped"])
    path, numbers = folder / FILE, range(said["rows"])
    with safe_open(path, "numpy") as file:
        rows = tuple({name: file.get_tensor(f"input.{row}.{name}") for name in said["inputs"]} for row in numbers)
        outputs = tuple(file.get_tensor(f"output.{row}") for row in numbers)
    return Reference(rows=rows, outputs=outputs, layers=tuple(said["layers"]), path=path)


def _rows(folder: Path, facts: Facts, level: str, trust_remote_code: bool) -> Iterator[Row]:
    if facts.task == CTC:
        for length in SAMPLES[: LEVELS[level][0]]:
            yield {"input_values": np.sin(np.arange(length, dtype=np.float64) ** 1.1 / 7).astype(np.float32)[None]}
        return
    for token_ids in prompts(folder, facts, level, trust_remote_code=trust_remote_code):
        yield {"input_ids": token_ids[None]}


@contextlib.contextmanager
def _listening(network: Any) -> Iterator[dict[str, np.ndarray]]:
    """What enters the first layer and what leaves each of them, by their paths, once the network has run."""
    path, layers = _layers(network)
    heard: dict[str, np.ndarray] = {}

    def enter(_: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        _note(heard, "embeddings", args[0] if args else kwargs.get("hidden_states"))

    hooks = [layers[0].register_forward_pre_hook(enter, with_kwargs=True)] if layers else []
    for number, layer in enumerate(layers):

        def leave(_: Any, args: Any, made: Any, name: str = f"{path}.{number}") -> None:
            _note(heard, name, made[0] if isinstance(made, tuple) else made)

        hooks.append(layer.register_forward_hook(leave))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _layers(network: Any) -> tuple[str, Sequence[Any]]:
    from qeffbuild.export.layers import NotAlike, stack_of

    try:
        path, stack = stack_of(network, "")
    except NotAlike:
        return "", ()
    return path, list(stack)


def _note(heard: dict[str, np.ndarray], name: str, made: Any) -> None:
    if hasattr(made, "detach") and made.dim() == 3 and made.shape[0] == 1:
        heard[name] = _flat(made)


def _flat(tensor: Any) -> np.ndarray:
    """[..., width] -> [tokens, width]."""
    array: np.ndarray = tensor.detach().float().numpy()
    return np.ascontiguousarray(array.reshape(-1, array.shape[-1]))
