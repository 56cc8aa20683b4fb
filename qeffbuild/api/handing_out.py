"""A build up to its documents -> a folder for the vendor's own tools that needs neither the store nor us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qeffbuild.api.building import build_together
from qeffbuild.api.built import Built
from qeffbuild.api.specs import check_out
from qeffbuild.api.using import model_folder
from qeffbuild.executor.reporter import Reporter
from qeffbuild.spec.types import BuildSpec

COMMANDS = "commands.json"  # what a rendering backend leaves beside its documents: one argument list per command


def emit(
    spec: BuildSpec, *, reporter: Reporter | None = None, frozen: bool = False, allow_outside: bool = False
) -> dict[str, Any]:
    """The vendor's inputs and command lines in a folder that needs nothing else, the weights beside the graph."""
    check_out(spec, allow_outside=allow_outside)
    return hand_out(
        build_together([spec], "render", reporter=reporter, frozen=frozen, allow_outside=allow_outside).builds[0]
    )


def hand_out(built: Built) -> dict[str, Any]:
    """What `emit` leaves: the rendered folder and the weights that its graph points at."""
    from qeffbuild.store.hand_out import export_tree

    entry, spec = built.goal, built.spec
    out = Path(spec.out or f"outputs/{spec.model.name}-{spec.backend.name}-{entry.record.key[:12]}").absolute()
    export_tree(built.store, entry, out, replace=(out / COMMANDS).is_file())
    _lay_weights(out, model_folder(built))
    commands = json.loads((out / COMMANDS).read_text()) if (out / COMMANDS).is_file() else []
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {"schema": 1, "folder": str(out), "files": files, "commands": commands}


def _lay_weights(out: Path, checkpoint: Path) -> None:
    """Beside the graphs, the files of the checkpoint that they point into."""
    graphs = sorted(out.glob("*.onnx"))
    if not graphs:
        return
    import onnx_ir as ir

    from qeffbuild.graph.decode import is_encoded
    from qeffbuild.graph.files import load_graph, save_graph
    from qeffbuild.graph.weights import Folder, Weights
    from qeffbuild.graph.write import WRITTEN, write_weights
    from qeffbuild.store.disk import copy_file

    source = Folder(checkpoint, is_checkpoint=True)
    for path in graphs:
        model = load_graph(path)
        if is_encoded(model.graph):  # the vendor's compiler cannot read those weights
            prefix = "" if path.stem == "graph" else f"{path.stem}."
            write_weights(model, Weights(Folder(out), source), out / f"{prefix}{WRITTEN}")
            save_graph(model, path)
            continue
        tensors = [value.const_value for value in model.graph.initializers.values()]
        for location in {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}:
            found = source.resolve(location)
            if found is not None and not (out / location).exists():
                (out / location).parent.mkdir(parents=True, exist_ok=True)
                copy_file(found, out / location)
