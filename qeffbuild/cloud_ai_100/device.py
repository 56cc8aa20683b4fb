"""A compiled program on devices, by the driver's Python binding: arrays in, arrays out; what is retained stays there.

A buffer that is skipped goes neither way: the program then uses what is on the device. Of every other buffer the shape
is told with each run; by all shapes together the driver finds the specialization that runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qeffbuild.cloud_ai_100.binding import Binding, check_devices, import_binding
from qeffbuild.errors import StepError

_PATIENCE_MS = 60_000  # how long a submission is tried again while a device is busy

# The driver's names of element types -> numpy's.
_DTYPES = {
    "FLOAT_TYPE": np.float32,
    "FLOAT_16_TYPE": np.float16,
    "INT8_Q_TYPE": np.int8,
    "UINT8_Q_TYPE": np.uint8,
    "INT16_Q_TYPE": np.int16,
    "INT32_Q_TYPE": np.int32,
    "INT32_I_TYPE": np.int32,
    "INT64_I_TYPE": np.int64,
    "INT8_TYPE": np.int8,
}
_NOTHING = np.zeros(0)


class Device:
    """One program, loaded and active on one or more devices. Not for two threads at once."""

    def __init__(self, program: Path, devices: Sequence[int], binding: Binding) -> None:
        runtime = self._runtime = binding.runtime
        self._path = program
        # All are kept: the driver's objects do not hold one another.
        self._context = runtime.Context(runtime.QIDList(list(devices))) if devices else runtime.Context()
        self._queue = runtime.Queue(self._context, devices[0] if devices else 0)
        self._container = runtime.Qpc(str(program))
        described = self._described(binding)
        self._places = {each.name: each.index for each in described}
        self._dtypes = _dtypes(binding, described)
        self._program = runtime.Program(self._context, None, self._container, self._properties(devices))
        self._check(self._program.load(), "does not load")
        self._check(self._program.activate(), "cannot be activated")
        self._run = runtime.ExecObj(self._context, self._program)
        self._buffers = [runtime.QBuffer(bytes(each.size)) for each in described]
        sizes = [(dtype.itemsize, list(each.dims)) for dtype, each in zip(self._dtypes, described, strict=True)]
        self._sizes = runtime.BufferDimensionsVecRef(sizes)

    @classmethod
    def open(cls, program: Path, devices: Sequence[int], who: str) -> Device:
        """`program` is the folder that the compiler left; without `devices` the driver chooses one."""
        binding = import_binding(who)
        try:
            check_devices(binding, devices)
            return cls(program, devices, binding)
        except RuntimeError as cause:  # what the driver's own exceptions become in Python
            raise _failed(program, f"cannot be opened: {cause}") from cause

    @property
    def names(self) -> frozenset[str]:
        """Every input and output of the program."""
        return frozenset(self._places)

    def skip(self, names: Iterable[str]) -> None:
        """These stay on the device from now on, until a run gives them."""
        for name in names:
            self._set(name, _NOTHING)

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Runs once; `outputs` are those that are wanted, with their shapes."""
        for name, array in inputs.items():
            self._set(name, array.astype(self._dtype(name), copy=False))
        for name, shape in outputs.items():
            self._set(name, np.empty(shape, self._dtype(name)))
        self._check(self._run.setData(self._buffers, self._sizes), "does not take these buffers")
        self._check(self._queue.enqueue(self._run), "cannot be enqueued")
        self._check(self._run.waitForCompletion(), f"failed on its device; it was given {_shapes(inputs, outputs)}")
        status, made = self._run.getData()
        self._check(status, "gave nothing")
        return {
            name: np.frombuffer(bytes(made[self._places[name]]), self._dtype(name)).reshape(shape)
            for name, shape in outputs.items()
        }

    def _dtype(self, name: str) -> np.dtype[Any]:
        return self._dtypes[self._places[name]]

    def _set(self, name: str, array: np.ndarray) -> None:
        place = self._places[name]
        self._buffers[place] = self._runtime.QBuffer(array.tobytes())
        self._sizes[place] = (array.itemsize, array.shape)

    def _properties(self, devices: Sequence[int]) -> Any:
        properties = self._runtime.QAicProgramProperties()
        properties.SubmitRetryTimeoutMs = _PATIENCE_MS
        if len(devices) > 1:
            properties.devMapping = ":".join(map(str, devices))
        return properties

    def _described(self, binding: Binding) -> Sequence[Any]:
        """What the program says of its inputs and outputs, in the order of their indices."""
        status, said = self._container.getIoDescriptor()
        self._check(status, "does not say what it takes")
        descriptor = binding.messages.IoDesc()
        descriptor.ParseFromString(bytes(said))
        return sorted(descriptor.selected_set.bindings, key=lambda each: each.index)

    def _check(self, status: Any, what: str) -> None:
        if status != self._runtime.QStatus.QS_SUCCESS:
            raise _failed(self._path, f"{what} ({status})")


def _dtypes(binding: Binding, described: Sequence[Any]) -> list[np.dtype[Any]]:
    known = {getattr(binding.messages, name): np.dtype(of) for name, of in _DTYPES.items()}
    return [known.get(each.type, np.dtype(np.uint8)) for each in described]  # others travel as bytes


def _failed(program: Path, what: str) -> StepError:
    hint = "the driver's own messages are above; `qaic-util -q` shows the devices"
    return StepError("step.device", f"{program.name}: the program {what}", where=str(program), hint=hint)


def _shapes(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, tuple[int, ...]]) -> str:
    given = {**{name: array.shape for name, array in inputs.items()}, **outputs}
    return ", ".join(f"{name} {list(shape)}" for name, shape in given.items())
