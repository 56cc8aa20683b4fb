"""The embedded backend: ONNX Runtime on this machine's processor."""

from __future__ import annotations


def doctor() -> tuple[str, str | None]:
    """What the processor's products of bytes are like, which `backend.profile=fast` reads prompts by."""
    from importlib.util import find_spec

    if find_spec("onnxruntime") is None:
        return "no onnxruntime", "pip install onnxruntime"
    from qeffbuild.graph.saturation import saturates

    widths = "16 bits, as 8 would saturate (no VNNI)" if saturates() else "8 bits"
    return f"needs no SDK; bytes are multiplied in {widths}", None
