"""Neutral graphs in float16 or bfloat16 -> the same in float32, which is what ONNX Runtime computes in on a processor.

The weights that they refer to stay what they are; packaging writes them in float32, rounded as the narrow graph has
them.
"""

from __future__ import annotations

import json
import shutil

import onnx_ir as ir

from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.widen import widen, widened
from qeffbuild.graphs import members


def run(work: Work) -> None:
    counts = {}
    for member in members(work.inputs["graph"]):
        model = load_graph(member.graph)
        counts[member.name] = widen(model)
        save_graph(model, work.out / member.file)
        widened(member.signature).save(work.out / member.io.name)
        for location in _beside(model):
            if (member.folder / location).is_file():
                shutil.copyfile(member.folder / location, work.out / location)
    (work.out / "widen.json").write_text(json.dumps({"schema": 1, "values": counts}, indent=1, sort_keys=True) + "\n")


def _beside(model: ir.Model) -> set[str]:
    """Files of weights that may lie beside the graph."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
