"""Neutral graph -> the same graph after the passes that the plan lists; transform.json says what each did."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import onnx_ir as ir

from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graph.write import DataFile
from qeffbuild.signature import IoSignature
from qeffbuild.transforms.subject import DATA, Subject

MADE = "export.json"  # how the graph was made, which a pass does not change


def run(work: Work) -> None:
    before = work.inputs["graph"]
    model = load_graph(before / "graph.onnx")
    with (work.out / DATA).open("wb") as file:
        subject = Subject(
            model=model,
            signature=IoSignature.load(before / "io.json"),
            leaves=work.leaves,
            out=work.out,
            data=DataFile(file),
            weights=_weights(work),
        )
        reports = []
        for done, said in enumerate(work.params["passes"]):
            work.progress(done / len(work.params["passes"]), said["name"])
            subject.report = {}
            import_module(f"qeffbuild.transforms.{said['name']}").apply(subject, said)
            reports.append({**said, **subject.report})
    save_graph(model, work.out / "graph.onnx")
    subject.signature.save(work.out / "io.json")
    _bring_along(model, before, work.out)
    (work.out / "transform.json").write_text(json.dumps({"schema": 1, "passes": reports}, indent=1) + "\n")


def _weights(work: Work) -> Weights | None:
    if "model" not in work.inputs:
        return None
    return Weights(Folder(work.inputs["graph"]), checkpoint_folder(work.inputs["model"], work.leaves.get("model")))


def _bring_along(model: ir.Model, before: Path, out: Path) -> None:
    """What lies beside the graph that came in and is still read; our own file only if something is in it."""
    shutil.copyfile(before / MADE, out / MADE)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    for location in {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)} - {DATA}:
        if (before / location).is_file():
            shutil.copyfile(before / location, out / location)
    if not (out / DATA).stat().st_size:
        (out / DATA).unlink()
