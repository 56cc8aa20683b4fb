"""In the place of the driver's messages: what a program says of its inputs and outputs, as JSON."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

FLOAT_TYPE, FLOAT_16_TYPE, INT8_Q_TYPE, UINT8_Q_TYPE, INT16_Q_TYPE = 1, 2, 3, 4, 5
INT32_Q_TYPE, INT32_I_TYPE, INT64_I_TYPE, INT8_TYPE = 6, 7, 8, 9
BUFFER_IO_TYPE_INPUT, BUFFER_IO_TYPE_OUTPUT = 1, 2


class IoDesc:
    def __init__(self) -> None:
        self.selected_set = SimpleNamespace(bindings=[])
        self.allowed_shapes: list[Any] = []

    def ParseFromString(self, data: bytes) -> None:
        said = json.loads(data, object_hook=lambda values: SimpleNamespace(**values))
        self.selected_set, self.allowed_shapes = said.selected_set, said.allowed_shapes
