"""Resize with a filter, which opset 17 has not -> a matrix for each of the two axes of a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter

_HALF_PIXELS = ("half_pixel", "pytorch_half_pixel")


def resized(emit: Emitter, node: ir.Node) -> ir.Value | None:
    """x[..., H, W] -> [..., h, w] by two products; None where sizes are not known or pixels are placed otherwise."""
    x, made = node.inputs[0], node.outputs[0]
    if x is None or x.shape is None or made.shape is None or x.dtype is None:
        return None
    (*outer, height, width), (*made_outer, to_height, to_width) = x.shape, made.shape
    if outer != made_outer or not _is_known(node):
        return None
    if not (isinstance(height, int) and isinstance(width, int)):
        return None
    if not (isinstance(to_height, int) and isinstance(to_width, int)):
        return None
    mode, dtype = node.attributes["mode"].as_string(), x.dtype.numpy()
    rows, columns = matrix(height, to_height, mode).astype(dtype), matrix(width, to_width, mode).astype(dtype)
    return emit("MatMul", emit("MatMul", rows, x), columns.T)


def matrix(before: int, after: int, mode: str) -> np.ndarray:
    """[after, before]: how much of each pixel goes into each new one, as PyTorch weighs them; each row sums to one.

    A filter becomes as wide as the pixels are that are put together. Nothing lies beyond the edges.
    """
    reach, curve = _CURVES[mode]
    scale = before / after
    widened = max(scale, 1.0)
    centers = scale * (np.arange(after) + 0.5)
    first = np.maximum((centers - reach * widened + 0.5).astype(int), 0)
    last = np.minimum((centers + reach * widened + 0.5).astype(int), before)
    pixels = np.arange(before)
    inside = (pixels >= first[:, None]) & (pixels < last[:, None])
    weights = curve(np.abs(pixels - centers[:, None] + 0.5) / widened) * inside
    return weights / weights.sum(axis=1, keepdims=True)


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - distance, 0)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' curve with a = -0.5."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


_CURVES: Mapping[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "linear": (1.0, _linear),
    "cubic": (2.0, _cubic),
}


def _is_known(node: ir.Node) -> bool:
    """Whether it is one of the forms that PyTorch's filters have in ONNX."""
    said = {
        "coordinate_transformation_mode": "half_pixel",
        "mode": "nearest",
        "cubic_coeff_a": -0.75,
        "exclude_outside": 0,
    }
    said |= {name: attribute.value for name, attribute in node.attributes.items()}
    cubic = said["mode"] != "cubic" or (said["cubic_coeff_a"] == -0.5 and said["exclude_outside"] == 1)
    return said["mode"] in _CURVES and cubic and said["coordinate_transformation_mode"] in _HALF_PIXELS
