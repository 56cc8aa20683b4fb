"""Constants that a device computes with in float16."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def clip_to_float16(graph: ir.Graph) -> None:
    """Constants that float16 cannot hold become its largest: a floor under masked scores must not turn into -inf.

    Infinities stay what they are. Weights are references, and are left as they are.
    """
    most = float(np.finfo(np.float16).max)
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor) or tensor.dtype != ir.DataType.FLOAT:
            continue
        array = tensor.numpy()
        clipped = np.where(np.isfinite(array), np.clip(array, -most, most), array).astype(array.dtype)
        if not np.array_equal(clipped, array, equal_nan=True):
            value.const_value = ir.tensor(clipped, name=tensor.name)
