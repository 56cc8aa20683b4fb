"""A packaged graph -> the same graph, whose weights are in its data file a second time: as this processor reads them.

ONNX Runtime's kernels put weights in an order of their own while a session loads. What it wrote once it maps from the
file afterwards, so nothing of it has to be allocated. A second copy is called by a digest of its bytes, and taken only
where packing gives that digest: with another processor or version the session packs as it would have without.
"""

from __future__ import annotations

import shutil
from os import SEEK_CUR, SEEK_END
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from qeffbuild.graph.write import PAGE, SMALL

_SAVED = "saved"
_LARGE = 2 << 20  # a piece of so much begins where a large page can, with a hole in front of it
_CHUNK = 8 * _LARGE


def prepack(graph: Path) -> dict[str, Any]:
    """Adds to the graph's own data file; what was added, for the manifest."""
    data = graph.with_suffix(".data")
    if not data.is_file():
        return {"weights": 0, "bytes": 0}
    folder = graph.with_name(f"{graph.stem}.{_SAVED}")
    folder.mkdir()
    try:
        _save(graph, folder)
        saved = onnx.load(folder / graph.name, load_external_data=False)
        added = _add(graph, data, folder / data.name, _entries(saved))
    finally:
        shutil.rmtree(folder)
    return {**added, "onnxruntime": ort.__version__}


def _save(graph: Path, folder: Path) -> None:
    """As ONNX Runtime writes it when a session is loaded, operators left as they are."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(folder / graph.name)
    for key, value in (
        ("save_external_prepacked_constant_initializers", "1"),
        ("optimized_model_external_initializers_file_name", graph.with_suffix(".data").name),
        ("optimized_model_external_initializers_min_size_in_bytes", str(SMALL)),
    ):
        options.add_session_config_entry(f"session.{key}", value)
    ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _entries(saved: onnx.ModelProto) -> dict[str, list[tuple[str, str]]]:
    """By initializer: `prepacked_N` and "name of the copy|offset;length;checksum", perhaps of several pieces."""
    found = {}
    for tensor in saved.graph.initializer:
        said = [(entry.key, entry.value) for entry in tensor.external_data if entry.key.startswith("prepacked")]
        if said:
            found[tensor.name] = said
    return found


def _add(graph: Path, data: Path, saved: Path, entries: dict[str, list[tuple[str, str]]]) -> dict[str, int]:
    model, before = onnx.load(graph, load_external_data=False), data.stat().st_size
    weights = 0
    with saved.open("rb") as source, data.open("r+b") as target:
        target.seek(0, SEEK_END)
        for tensor in model.graph.initializer:
            if not any(entry.key == "location" and entry.value == data.name for entry in tensor.external_data):
                continue  # inside the graph, or in another graph's file
            for key, value in entries.get(tensor.name, ()):
                name, *pieces = value.split("|")
                moved = [_copy(source, target, *map(int, piece.split(";"))) for piece in pieces]
                tensor.external_data.add(key=key, value="|".join([name, *moved]))
                weights += 1
    onnx.save(model, graph)
    return {"weights": weights, "bytes": data.stat().st_size - before}


def _copy(source: Any, target: Any, offset: int, length: int, checksum: int) -> str:
    place = target.seek(-target.tell() % (_LARGE if length >= _LARGE else PAGE), SEEK_CUR)
    source.seek(offset)
    while length_left := length - (target.tell() - place):
        target.write(source.read(min(_CHUNK, length_left)))
    return f"{place};{length};{checksum}"
