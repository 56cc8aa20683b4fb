"""A graph in the form of the device and what is asked of it -> the compiler's documents and its program, in a folder.

The graph is one that `qeffbuild emit` or QEfficient has written: a state is an input X with an output X_RetainedState.
"""

from __future__ import annotations

from pathlib import Path

from qeffbuild.api import compose
from qeffbuild.compat.translate import Translation
from qeffbuild.compat.words import Said
from qeffbuild.errors import BackendError, ModelError, PathError

PROGRAMS = "qpcs"  # where QEfficient's own compile command leaves a program
_NEVER_FETCHED = "model.path=."  # the model is the graph: nothing else of it is read


def compile_graph(said: Said, made: Translation) -> int:
    from qeffbuild.backends.qaic.compile import compile_folder
    from qeffbuild.backends.qaic.onnx_file import write_folder

    graph, out = Path(said.values["onnx_path"]), Path(said.values["qpc_path"])
    if not graph.is_file():
        raise ModelError("model.absent", f"--onnx-path: {graph} is no file", hint="is the path right?")
    if said.values.get("enable_qnn"):
        hint = "qeffbuild build backend=qnn with the model itself"
        raise BackendError("backend.option", "--enable-qnn: QNN's tools want more of a model than its graph", hint=hint)
    if out.exists() and any(out.iterdir()):
        raise PathError("path.exists", f"--qpc-path: {out} is not empty", hint="name a new folder")
    spec = compose([*made.overrides(), _NEVER_FETCHED, *said.overrides])
    custom_io = said.values.get("custom_io_file_path")
    named = Path(custom_io) if custom_io else None
    compile_folder(spec, write_folder(spec, graph, out, output=PROGRAMS, custom_io=named), out, PROGRAMS)
    print(out / PROGRAMS)
    return 0
