"""Graph files: read with weights left where they are, refused when damaged, written the same way each time."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from qeffbuild.errors import ModelError

DOMAIN = "qeffbuild"  # of the symbolic operators: graph/operators.py
KNOWN_DOMAINS = frozenset({"", "ai.onnx", DOMAIN, "com.microsoft"})
_LARGEST = (1 << 31) - 1  # bytes of one protocol buffer


def load_graph(path: Path) -> ir.Model:
    """The model in `path`. External weights stay references: their files are neither opened nor looked for."""
    size = path.stat().st_size if path.is_file() else 0
    if size == 0:
        raise _invalid(path, "missing" if not path.exists() else "empty")
    if size > _LARGEST:
        raise ModelError(
            "onnx.unsupported",
            f"{path.name}: {size} bytes in one file, but ONNX holds at most 2 GB",
            hint="save the model with external data",
        )
    try:
        model = ir.from_proto(onnx.load_model(path, load_external_data=False))
    # onnx-ir reports a malformed message by whatever its conversion stumbled over.
    except (DecodeError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as cause:
        raise _invalid(path, str(cause).strip().splitlines()[0] if str(cause).strip() else "unreadable") from cause
    _check_whole(model, path)
    _check_versions(model, path)
    return model


def save_graph(model: ir.Model, path: Path) -> None:
    """Writes the graph and its references; no weight is read."""
    path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def _check_whole(model: ir.Model, path: Path) -> None:
    """A file cut at the end of a field still parses; what it lost shows as values that nobody makes."""
    if not model.graph.outputs or not len(model.graph):
        raise _invalid(path, "it has no nodes or no outputs")
    made = {id(value) for value in (*model.graph.inputs, *model.graph.initializers.values())}
    made |= {id(output) for node in model.graph for output in node.outputs}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and id(value) not in made:
                raise _invalid(path, f"{node.op_type} reads {value.name!r}, which nothing makes")
    for value in model.graph.outputs:
        if id(value) not in made:
            raise _invalid(path, f"nothing makes its output {value.name!r}")


def _check_versions(model: ir.Model, path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    said = model.opset_imports.get("", newest)
    if said > newest:
        raise ModelError(
            "onnx.unsupported",
            f"{path.name}: opset {said}, but this onnx knows up to {newest}",
            hint="pip install -U onnx, or export with an older opset",
        )
    own = {function.domain for function in model.functions.values()}
    for node in model.graph:
        if node.domain not in KNOWN_DOMAINS | own:
            raise ModelError(
                "onnx.unsupported",
                f"{path.name}: operator {node.domain}::{node.op_type} is unknown",
                hint=f"operators of these domains are known: ai.onnx, {DOMAIN}, com.microsoft",
            )


def _invalid(path: Path, why: str) -> ModelError:
    return ModelError("onnx.invalid", f"{path.name}: {why}", where=str(path), hint="export the model again")
