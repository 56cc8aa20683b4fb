"""A rendered folder: the weights that come along, and all of it laid out for a compiler."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir

from qeffbuild.cloud_ai_100.names import GRAPH, WEIGHTS
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graph.write import write_weights


def bring_weights(model: ir.Model, exported: Path, out: Path) -> list[str]:
    """Copies what the export wrote beside its graph; the files of the checkpoint that the graph reads besides."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    locations = sorted({str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})
    needed = []
    for location in locations:
        beside = exported / location
        if beside.is_file():
            shutil.copyfile(beside, out / location)
        else:
            needed.append(location)
    return needed


def lay_out(work: Work, stage: Path) -> None:
    """The folder as it was rendered (input `documents`), and all weights in one file beside the graph."""
    shutil.copytree(work.inputs["documents"], stage)
    for path in (stage, *stage.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)  # what the store hands out is read-only, and so is its copy
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))
    weights = Weights(Folder(stage), Folder(work.inputs["exported"]), checkpoint)
    graph = load_graph(stage / GRAPH)
    write_weights(graph, weights, stage / WEIGHTS, work.progress)
    save_graph(graph, stage / GRAPH)
