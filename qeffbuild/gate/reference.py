"""What PyTorch says to a few inputs, and what each of its layers hands on: made once, read by every gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from qeffbuild.gate.listening import Layer, flat, listening
from qeffbuild.gate.network import mapped_network
from qeffbuild.gate.questions import Asking, Row, questions
from qeffbuild.models import Facts
from qeffbuild.models.tasks import CLASSIFICATION, CTC, GENERATING

FILE, SAID = "reference.safetensors", "reference.json"
DISTRIBUTIONS = frozenset({*GENERATING, CLASSIFICATION, CTC})  # tasks whose output is scores of words or labels


@dataclass(frozen=True, slots=True)
class Reference:
    """`layers` are what was listened to: what enters the first layer, then each layer; an encoder's first."""

    rows: tuple[Row, ...]
    outputs: tuple[np.ndarray, ...]  # [tokens, words] of each row, or [rows, width] where a text becomes one vector
    layers: tuple[Layer, ...]
    path: Path

    def handed_on(self, row: int, layer: int) -> np.ndarray:
        """[tokens, width]."""
        with safe_open(self.path, "numpy") as file:
            found: np.ndarray = file.get_tensor(f"layer.{row}.{layer}")
        return found


def make(folder: Path, facts: Facts, out: Path, *, asking: Asking, wrap: Callable[[Any], Any]) -> None:
    """Writes the two documents into `out`. `wrap` makes of a network what is exported: a pooling may be part of it."""
    import torch

    torch.set_num_threads(1)
    tensors: dict[str, np.ndarray] = {}
    with mapped_network(folder, facts, trust_remote_code=asking.trust_remote_code) as network:
        ask = wrap(network)
        rows = list(questions(folder, facts, network, asking))
        for number, row in enumerate(rows):
            tensors |= {f"input.{number}.{name}": array for name, array in row.items()}
            with listening(network, facts.task) as heard:
                output = ask({name: torch.from_numpy(array) for name, array in row.items()})
            tensors[f"output.{number}"] = flat(output)
            tensors |= {f"layer.{number}.{layer}": array for layer, array in enumerate(heard.values())}
    save_file(tensors, out / FILE)
    layers = [layer.as_json() for layer in heard]
    said = {"schema": 1, "rows": len(rows), "inputs": list(rows[0]), "layers": layers}
    (out / SAID).write_text(json.dumps(said, indent=1) + "\n")


def load(folder: Path) -> Reference:
    said = json.loads((folder / SAID).read_text())
    path, numbers = folder / FILE, range(said["rows"])
    with safe_open(path, "numpy") as file:
        rows = tuple({name: file.get_tensor(f"input.{row}.{name}") for name in said["inputs"]} for row in numbers)
        outputs = tuple(file.get_tensor(f"output.{row}") for row in numbers)
    return Reference(rows=rows, outputs=outputs, layers=tuple(Layer(**each) for each in said["layers"]), path=path)
