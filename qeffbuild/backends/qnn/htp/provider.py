"""The QNN execution provider: registered once in a process, its sessions strict, its chatter kept off stdout."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from qeffbuild.backends.qnn.htp.wheel import absent
from qeffbuild.errors import AbsentError

PROVIDER = "QNNExecutionProvider"
QUIET, VERBOSE = 3, 0
# Else nodes that the device cannot run are left to the processor without a word, and errors are repeated there.
STRICT = {"session.disable_cpu_ep_fallback": "1"}
RECORDED = {"session.record_ep_graph_assignment_info": "1"}


def open_graph(
    path: Path,
    provider: Mapping[str, str],
    *,
    config: Mapping[str, str] = STRICT,
    severity: int = QUIET,
    threads: int | None = None,
) -> Any:
    """An ONNX Runtime session of the graph on the provider; whatever it raises is ONNX Runtime's."""
    import onnxruntime as ort

    found = _devices()
    options = ort.SessionOptions()
    options.log_severity_level = severity
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in config.items():
        options.add_session_config_entry(name, value)
    options.add_provider_for_devices(found, dict(provider))
    with stdout_to_stderr():
        session = ort.InferenceSession(path, options)
    session.disable_fallback()
    return session


def open_reference(path: Path) -> Any:
    """The same graph on the processor."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = QUIET
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """The simulator prints lines of its own on stdout, which holds results; they go to stderr instead."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C has buffered belongs to it, too
        os.dup2(kept, 1)
        os.close(kept)


@cache
def _devices() -> list[Any]:
    try:
        import onnxruntime as ort
        import onnxruntime_qnn
    except ImportError as cause:
        raise absent() from cause
    with stdout_to_stderr():
        ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
        found = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    if not found:
        raise AbsentError("backend.absent", "onnxruntime-qnn finds neither a Hexagon device nor its simulator here")
    return found
