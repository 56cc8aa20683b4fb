"""Weights that float16 cannot hold become its largest number when they are read.

Weights stay references: each that is stored in a wider type gets a Clip behind it, which whoever binds or compiles the
graph folds away. Without the pass a device that computes in float16 would read infinities there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter
from qeffbuild.transforms.subject import Subject

MOST = float(np.finfo(np.float16).max)
_WIDER = (ir.DataType.FLOAT, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    graph, emit = subject.graph, Emitter(subject.graph, "clip")
    stored = [
        value
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor) and value.dtype in _WIDER and value.uses()
    ]
    for value in stored:
        assert value.dtype is not None
        kind = value.dtype.numpy()
        users = list(value.uses())
        clipped = emit("Clip", value, np.array(-MOST, kind), np.array(MOST, kind))
        clipped.shape, clipped.type = value.shape, value.type
        for user, place in users:
            user.replace_input_with(place, clipped)
    graph.insert_before(graph[0], emit.waiting())
    subject.report |= {"weights": len(stored)}
