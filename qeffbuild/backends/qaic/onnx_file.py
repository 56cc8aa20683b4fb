"""An ONNX file in the form of the device and what is asked of it -> a folder of documents, and the command for them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import onnx_ir as ir
import yaml

from qeffbuild.backends.qaic.command import CUSTOM_IO
from qeffbuild.backends.qaic.render import Asked, write_documents
from qeffbuild.cloud_ai_100.exported import Exported
from qeffbuild.cloud_ai_100.names import GRAPH, PROGRAMS
from qeffbuild.cloud_ai_100.requests import is_continuous
from qeffbuild.errors import BackendError
from qeffbuild.graph.files import load_graph
from qeffbuild.signature import IoSignature, State, Tensor
from qeffbuild.spec.types import BuildSpec

_RETAINED = "_RetainedState"


def write_folder(
    spec: BuildSpec, graph: Path, out: Path, *, output: str = PROGRAMS, custom_io: Path | None = None
) -> list[str]:
    """The arguments of the compiler: they name the graph where it lies, and all else by its name in `out`."""
    signature = signature_of(load_graph(graph).graph)
    if custom_io is not None:
        _check_custom_io(custom_io, signature)
    out.mkdir(parents=True, exist_ok=True)
    asked = Asked(
        options=spec.backend.options,
        shapes=spec.specialization,
        quantization=spec.quantization,
        continuous=is_continuous(spec),
        dtype=spec.model.dtype,
        num_devices=spec.device_group.size,
        stages=spec.device_group.mdp_num_partitions,
        exported=Exported(),
    )
    argv = write_documents(asked, load_graph(graph), signature, {}, out)
    if custom_io is not None:
        shutil.copyfile(custom_io, out / CUSTOM_IO)
    renamed = {f"-m={GRAPH}": f"-m={graph.absolute()}", f"-aic-binary-dir={PROGRAMS}": f"-aic-binary-dir={output}"}
    return [renamed.get(word, word) for word in argv]


def signature_of(graph: ir.Graph) -> IoSignature:
    """Names are all that a foreign graph says: an input X is a state where there is an output X_RetainedState."""
    outputs = {value.name for value in graph.outputs}
    states = [value for value in graph.inputs if f"{value.name}{_RETAINED}" in outputs]
    retained = {f"{value.name}{_RETAINED}" for value in states}
    return IoSignature(
        graph="decoder",
        inputs=tuple(_tensor(value) for value in graph.inputs if value not in states),
        outputs=tuple(_tensor(value) for value in graph.outputs if value.name not in retained),
        states=tuple(_state(value) for value in states),
    )


def _tensor(value: ir.Value) -> Tensor:
    axes = tuple(size if isinstance(size, int) else str(size) for size in value.shape or ())
    dtype = "" if value.dtype is None else str(value.dtype.numpy())
    return Tensor(name=value.name or "", dtype=dtype, axes=axes)


def _state(value: ir.Value) -> State:
    said = _tensor(value)
    layer = re.search(r"\.(\d+)", said.name)
    kind = "value" if "value" in said.name else "key"
    layer_number = int(layer[1]) if layer else 0
    output = f"{said.name}{_RETAINED}"
    return State(name=said.name, output=output, dtype=said.dtype, axes=said.axes, layer=layer_number, kind=kind)


def _check_custom_io(path: Path, signature: IoSignature) -> None:
    """Names that the graph does not have would be passed over by whoever reads them."""
    key = "--custom-io-file-path"
    try:
        listed = [entry["IOName"] for entry in yaml.safe_load(path.read_text("utf-8"))]
    except OSError as cause:
        raise BackendError("backend.file", f"{key}: {path} is no file", hint="is the path right?") from cause
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as cause:
        hint = "it is YAML: - IOName: past_key.0, and below it Precision: float16"
        raise BackendError("backend.file", f"{key}: {path.name} lists no tensors", hint=hint) from cause
    tensors = (*signature.inputs, *signature.outputs)
    known = {tensor.name for tensor in tensors} | {
        name for state in signature.states for name in (state.name, state.output)
    }
    if strangers := [name for name in listed if name not in known]:
        found = f"{key}: {len(strangers)} names are not in the graph, {strangers[0]!r} first"
        raise BackendError("backend.file", found, hint="write it for this graph, or leave it out")
