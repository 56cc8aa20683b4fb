"""In the place of the driver's binding: programs are ONNX graphs that ONNX Runtime executes, on two devices.

It takes the calls in the order and with the types that the driver wants, refuses shapes that were not compiled, and
keeps what is retained to itself, which is anything before a run wrote it. `LOG` is what happened.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import QAicApi_pb2 as messages

LOG: list[dict[str, Any]] = []  # of each run: its specialization, and what was sent and asked for

_TYPES = {
    "tensor(float)": (messages.FLOAT_TYPE, np.float32),
    "tensor(float16)": (messages.FLOAT_16_TYPE, np.float16),
    "tensor(int64)": (messages.INT64_I_TYPE, np.int64),
}


class QStatus(Enum):
    QS_SUCCESS = 0
    QS_ERROR = 100


class QIDList(list[int]):
    pass


class Util:
    def getDeviceIds(self) -> tuple[QStatus, QIDList]:
        count = int(os.environ.get("PLAYED_DEVICES", "2"))
        return (QStatus.QS_SUCCESS if count else QStatus.QS_ERROR), QIDList(range(count))


class Context:
    def __init__(self, devices: QIDList | None = None) -> None:
        if devices is not None and type(devices) is not QIDList:
            raise TypeError("devices")
        self.devices = QIDList([0]) if devices is None else devices


class QBuffer(bytes):
    @property
    def size(self) -> int:
        return len(self)


class BufferDimensionsVecRef(list[tuple[int, Sequence[int]]]):
    pass


class QAicProgramProperties:
    SubmitRetryTimeoutMs = 0
    devMapping = ""


class Qpc:
    """The folder that the played compiler left: the graph, its specializations, its custom IO."""

    def __init__(self, folder: str) -> None:
        if type(folder) is not str or not (Path(folder) / "programqpc.bin").is_file():
            raise RuntimeError(f"no program in {folder}")
        self.folder = Path(folder)
        self.session = ort.InferenceSession(self.folder / "graph.onnx", providers=["CPUExecutionProvider"])
        said = json.loads((self.folder / "specializations.json").read_text())["specializations"]
        self.sets = [{name: int(size) for name, size in each.get("symbols", each).items()} for each in said]
        custom = (self.folder / "custom_io.yaml").read_text() if (self.folder / "custom_io.yaml").is_file() else ""
        self.halves = set(re.findall(r"IOName: (\S+)\n   Precision: float16", custom))
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.values = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.names = [value.name for value in self.values]
        self.states = {name: f"{name}_RetainedState" for name in self.inputs if f"{name}_RetainedState" in self.names}

    def shape(self, value: Any, symbols: dict[str, int]) -> list[int]:
        return [axis if isinstance(axis, int) else symbols[axis] for axis in value.shape]

    def dtype(self, value: Any) -> Any:
        return np.float16 if value.name in self.halves else _TYPES[value.type][1]

    def getIoDescriptor(self) -> tuple[QStatus, list[int]]:
        bindings = [
            {
                "name": value.name,
                "index": place,
                "dir": 1 if value.name in self.inputs else 2,
                "type": messages.FLOAT_16_TYPE if value.name in self.halves else _TYPES[value.type][0],
                "dims": (dims := self.shape(value, self.sets[0])),
                "size": int(np.prod(dims)) * np.dtype(self.dtype(value)).itemsize,
            }
            for place, value in enumerate(self.values)
        ]
        # In no particular order, as in a real program: the index is what counts.
        said = {"selected_set": {"bindings": bindings[::-1]}, "allowed_shapes": []}
        return QStatus.QS_SUCCESS, list(json.dumps(said).encode())


class Program:
    def __init__(self, context: Context, device: None, qpc: Qpc, properties: QAicProgramProperties) -> None:
        assert device is None
        assert properties.SubmitRetryTimeoutMs > 0
        mapped = list(map(int, properties.devMapping.split(":"))) if properties.devMapping else [context.devices[0]]
        assert mapped == list(context.devices), "a program over several devices says which"
        self.qpc, self.context, self.is_loaded, self.is_active = qpc, context, False, False
        self.memory: dict[str, np.ndarray] = {}

    def load(self) -> QStatus:
        self.is_loaded = (self.qpc.folder / "programqpc.bin").stat().st_size > 0
        return QStatus.QS_SUCCESS if self.is_loaded else QStatus.QS_ERROR

    def activate(self) -> QStatus:
        assert self.is_loaded
        self.is_active = True
        largest = {name: max(each.get(name, 0) for each in self.qpc.sets) for each in self.qpc.sets for name in each}
        for value in self.qpc.values:
            if value.name in self.qpc.states:
                self.memory[value.name] = np.full(self.qpc.shape(value, largest), np.nan, _TYPES[value.type][1])
        return QStatus.QS_SUCCESS


class ExecObj:
    def __init__(self, context: Context, program: Program) -> None:
        assert program.is_active
        assert program.context is context
        self.program = program
        self.given: dict[str, np.ndarray] = {}
        self.wanted: list[str] = []
        self.made: list[QBuffer] = []
        self.status = QStatus.QS_ERROR

    def setData(self, buffers: Sequence[QBuffer], dims: BufferDimensionsVecRef) -> QStatus:
        qpc = self.program.qpc
        assert type(dims) is BufferDimensionsVecRef
        assert len(buffers) == len(dims) == len(qpc.values)
        retained = {*qpc.states, *qpc.states.values()}
        told = {
            value.name: list(shape)
            for value, buffer, (_, shape) in zip(qpc.values, buffers, dims, strict=True)
            if buffer.size or value.name not in retained
        }
        fitting = [
            place
            for place, symbols in enumerate(qpc.sets)
            if all(qpc.shape(qpc.values[qpc.names.index(name)], symbols) == shape for name, shape in told.items())
        ]
        if not fitting:
            return QStatus.QS_ERROR  # no matching dimension found
        self.given, self.wanted = {}, []
        for value, buffer, (size, shape) in zip(qpc.values, buffers, dims, strict=True):
            dtype = np.dtype(qpc.dtype(value))
            if value.name in told and (dtype.itemsize, int(np.prod(shape)) * size) != (size, buffer.size):
                return QStatus.QS_ERROR
            if value.name in told and value.name in qpc.inputs:
                self.given[value.name] = np.frombuffer(buffer, dtype).reshape(shape)
            elif value.name in told:
                self.wanted.append(value.name)
        LOG.append({"set": fitting[0], "given": sorted(self.given), "wanted": sorted(self.wanted)})
        return QStatus.QS_SUCCESS

    def run(self) -> None:
        qpc, memory = self.program.qpc, self.program.memory
        inside = {value.name: _TYPES[value.type][1] for value in qpc.values}
        feed = {name: array.astype(inside[name]) for name, array in self.given.items()}
        outputs = qpc.session.run(None, {**memory, **feed})
        made = dict(zip([value.name for value in qpc.session.get_outputs()], outputs, strict=True))
        memory.update({name: made[output] for name, output in qpc.states.items()})
        self.made = [
            QBuffer(made[value.name].astype(qpc.dtype(value)).tobytes() if value.name in self.wanted else b"")
            for value in qpc.values
        ]
        self.status = QStatus.QS_SUCCESS

    def waitForCompletion(self) -> QStatus:
        return self.status

    def getData(self) -> tuple[QStatus, list[QBuffer]]:
        return self.status, self.made


class Queue:
    def __init__(self, context: Context, device: int) -> None:
        assert device in context.devices
        self.context = context

    def enqueue(self, run: ExecObj) -> QStatus:
        assert run.program.context is self.context
        run.run()
        return QStatus.QS_SUCCESS
