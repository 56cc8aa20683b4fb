"""What a pass works on: the graph, its signature, files that the spec named, and a place for new tensors and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.weights import Weights
from qeffbuild.graph.write import DataFile, stored_value
from qeffbuild.signature import IoSignature

DATA = "transform.data"


@dataclass(slots=True, kw_only=True)
class Subject:
    """One graph under change. A pass rewrites `model`, replaces `signature` and says in `report` what it did."""

    model: ir.Model
    signature: IoSignature
    leaves: Mapping[str, Path]
    out: Path
    data: DataFile
    weights: Weights | None = None  # the checkpoint, for passes that look at it
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def graph(self) -> ir.Graph:
        return self.model.graph

    def store(self, name: str, array: np.ndarray) -> ir.Value:
        """A new initializer of the graph: inside it if small, else in the file beside it."""
        value = stored_value(name, np.ascontiguousarray(array), self.data, DATA)
        self.graph.initializers.add(value)
        return value
