"""The embedded backend: ONNX Runtime on this machine's processor."""
