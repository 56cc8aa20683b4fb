"""A package's graphs -> ONNX Runtime's sessions, each told what makes it fast at what it is for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from weakref import finalize

from qeffbuild.backends.onnxruntime.pages import large_pages
from qeffbuild.errors import AbsentError, BackendError
from qeffbuild.graph.saturation import make_unsigned, multiplies_bytes, saturates, unsigned
from qeffbuild.package import Package
from qeffbuild.signature import IoSignature

try:
    import onnxruntime as ort
except ImportError as cause:
    raise AbsentError("onnxruntime.absent", "onnxruntime cannot be imported", hint="pip install onnxruntime") from cause

__all__ = ["load_for_decoding", "load_for_prompts", "ort"]

_MANY = 64 << 20  # bytes of weights that no cache of a processor holds
_WAIT_US = "1000"  # that a thread looks for the next operator before it sleeps
_QUIET = 3  # ONNX Runtime's warnings are about its own rewriting; errors reach us as exceptions
_NO_FLASH = "ORT_GQA_DISABLE_FLASH_ATTENTION"


def load_for_decoding(
    package: Package, said: Mapping[str, Any], signature: IoSignature, threads: int | None
) -> ort.InferenceSession:
    """All weights are read for each token, so where there are many it matters how fast memory is found."""
    data = (package.path / said["file"]).with_suffix(".data")
    size = data.stat().st_size if data.is_file() else 0
    has_form_for_prompts, has_integers = "prefill" in said, any(state.dtype == "int8" for state in signature.states)
    with (
        large_pages(size) if size >= _MANY else nullcontext(),
        _without_flash_attention() if has_form_for_prompts and has_integers else nullcontext(),
    ):
        return _load(package, said["file"], _options(threads, is_final=has_form_for_prompts))


def load_for_prompts(package: Package, said: Mapping[str, Any], threads: int | None) -> ort.InferenceSession:
    """Weights stay in the file as they are, which costs a run a twentieth, where loading would take as long again.

    Blocks are another matter: without what is done to them while loading, a product takes many times as long.
    """
    options = _options(threads, is_final=True)
    if not said.get("prefill_has_blocks", True):
        options.add_session_config_entry("session.disable_prepacking", "1")
    return _load(package, said["prefill"], options)


def _options(threads: int | None, *, is_final: bool = False) -> ort.SessionOptions:
    """`is_final`: the graph is made of integers and as fused as can be; to look for more is a tenth of loading it."""
    options = ort.SessionOptions()
    if is_final:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = _QUIET
    # Operators follow each other within microseconds; to be woken for each costs a token a quarter of its time. A
    # thread that finds nothing for so long sleeps, so a session that nobody asks costs nobody a core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", _WAIT_US)
    return options


@contextmanager
def _without_flash_attention() -> Iterator[None]:
    """One token reads a cache of integers a quarter faster so, a cache of floats half as fast; prompts take memory.

    Operators look at this variable when their session is made, and it is all there is to tell them.
    """
    before = os.environ.get(_NO_FLASH)
    os.environ.setdefault(_NO_FLASH, "1")
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_FLASH]


def _load(package: Package, file: str, options: ort.SessionOptions) -> ort.InferenceSession:
    path = package.path / file
    try:
        if multiplies_bytes(path.read_bytes()) and saturates():
            return _load_unsigned(path, options)
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's exceptions have no common base but this.
    except Exception as cause:
        problem = str(cause).strip().splitlines()[0]
        raise BackendError(
            "backend.file",
            f"{file}: onnxruntime does not load it: {problem}",
            where=str(package.path),
            hint="`qeffbuild verify` tells whether the package is damaged; else build it with this onnxruntime",
        ) from cause


def _load_unsigned(file: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    """Weights that signed would give wrong sums here are in memory; all others stay in their files."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    outside, weights = make_unsigned(model.graph), []
    for tensor in model.graph.initializer:
        if tensor.name in outside:
            array = unsigned(onnx.numpy_helper.to_array(tensor, str(file.parent)))
            weights.append(ort.OrtValue.ortvalue_from_numpy(array))
            options.add_initializer(tensor.name, weights[-1])
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    finalize(session, weights.clear)  # it reads them where they are, and holds none of them
    return session
