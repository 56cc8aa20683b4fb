"""A rendered folder: the weights that come along, and all of it laid out for a compiler."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir

from qeffbuild.cloud_ai_100.names import GRAPH, WEIGHTS
from qeffbuild.executor.work import Work
from qeffbuild.graph.decode import is_encoded
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graph.write import WRITTEN, write_weights


def bring_weights(model: ir.Model, exported: Path, out: Path, prefix: str = "") -> list[str]:
    """Copies what the export wrote beside its graph; the files that the graph reads besides: of the checkpoint, or
    where that holds encoded weights, the one into which they are written when the folder is handed out.
    """
    tensors = [value.const_value for value in model.graph.initializers.values()]
    locations = sorted({str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})
    needed = []
    for location in locations:
        beside = exported / location
        if beside.is_file():
            shutil.copyfile(beside, out / location)
        else:
            needed.append(location)
    return [f"{prefix}{WRITTEN}"] if is_encoded(model.graph) else needed


def lay_out(work: Work, stage: Path) -> None:
    """The folder as it was rendered (input `documents`), and all weights in one file beside each graph."""
    shutil.copytree(work.inputs["documents"], stage)
    for path in (stage, *stage.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)  # what the store hands out is read-only, and so is its copy
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))
    weights = Weights(Folder(stage), Folder(work.inputs["exported"]), checkpoint)
    for path in sorted(stage.glob("*.onnx")):
        graph = load_graph(path)
        name = WEIGHTS if path.name == GRAPH else f"{path.stem}.data"
        write_weights(graph, weights, stage / name, work.progress)
        save_graph(graph, path)
