"""What a render or a package step of either compiler copies into its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from qeffbuild.cloud_ai_100.images import of_one_row, sees
from qeffbuild.cloud_ai_100.names import IMAGE_FACTS, PROGRAM, PROGRAMS, SPECIALIZATIONS
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graphs import Member, members
from qeffbuild.package import ADAPTERS, bring_adapters
from qeffbuild.signature import IoSignature


def bring_facts(exported: Path, out: Path) -> None:
    """Whoever feeds the program has to know of images, and has to have adapters."""
    if bring_adapters(exported, out) is not None:
        shutil.copyfile(exported / f"{ADAPTERS}.json", out / f"{ADAPTERS}.json")
    made = json.loads((exported / "export.json").read_text())
    if "image" in made:
        (out / IMAGE_FACTS).write_text(json.dumps(made["image"], indent=1, sort_keys=True) + "\n")


def bring_graph(work: Work, member: Member, *, one_row: bool) -> tuple[ir.Model, IoSignature]:
    """The graph and its signature, as they now lie in the folder; with `one_row`, what is seen is one prompt's."""
    for path in (member.graph, member.io):
        shutil.copyfile(path, work.out / path.name)
    model, signature = load_graph(member.graph), member.signature
    if one_row and sees(signature):
        signature = of_one_row(model.graph, signature)
        signature.save(work.out / member.io.name)
        save_graph(model, work.out / member.file)
    return model, signature


def bring_programs(work: Work) -> dict[str, Any]:
    """Copies what was compiled of each graph into a package; what its manifest says of them."""
    compiled, documents = work.inputs["compiled"], work.inputs["documents"]
    graphs = {}
    for member in members(documents):
        folder = member.name if member.prefix else "."
        shutil.copytree(compiled / folder / PROGRAMS, work.out / folder / PROGRAMS)
        # The runtime reads the sizes of its buffers from the specializations, by their names.
        shutil.copyfile(documents / folder / SPECIALIZATIONS, work.out / folder / SPECIALIZATIONS)
        file = (Path(folder) / PROGRAMS / PROGRAM).as_posix()
        graphs[member.name] = {"file": file, "signature": member.signature.as_json()}
    return graphs


def image_facts(documents: Path) -> Mapping[str, Any]:
    """What a manifest says of images, of a model that sees."""
    path = documents / IMAGE_FACTS
    return {"image": json.loads(path.read_text())} if path.is_file() else {}
