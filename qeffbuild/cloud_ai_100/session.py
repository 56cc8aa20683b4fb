"""A package for Cloud AI 100 -> a session on its devices: what the runtime asks for, in the compiled sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qeffbuild.cloud_ai_100.compiled import Entry, entries
from qeffbuild.cloud_ai_100.device import Device
from qeffbuild.errors import AbsentError, BackendError, RunError
from qeffbuild.package import Package
from qeffbuild.signature import IoSignature, Tensor

DECODER, ENCODER = "decoder", "encoder"
TOKENS, POSITIONS, INDEX = "input_ids", "position_ids", "logits_index"
SLOTS, CONTEXT, KEPT, SOUND = "batch_index", "comp_ctx_lengths", "num_logits_to_keep", "input_features"
_COUNTED = frozenset({CONTEXT, KEPT})  # of these inputs only the length matters, and a compiler may drop them
PADDING = -1


def open_session(package: Package, devices: Sequence[int] = ()) -> Session:
    """Loads the program on these devices; where the driver's binding is missing, an error says what to install."""
    if package.task == "image-text":
        name = package.model["name"]
        hint = "load its programs with the SDK's own tools, or build it for this machine with another backend"
        raise AbsentError("backend.absent", f"{name}: models that see do not run on devices from here yet", hint=hint)
    count = package.manifest["devices"]
    if devices and len(devices) != count:
        raise RunError(
            "run.shape",
            f"device_group.devices: {len(devices)} devices, but the package was compiled for {count}",
            hint="name as many devices, or build a package for these",
        )
    device = Device.open(package.graph(*package.graphs).parent, devices or range(count), package.model["name"])
    return Session(package, device)


@dataclass(slots=True)
class States:
    """What is on the device; `waiting` goes there with the next run and stays."""

    waiting: dict[str, np.ndarray] = field(default_factory=dict)


class Session:
    """A package on its devices. The program keeps one set of states. Not for two threads at once."""

    any_length = False

    def __init__(self, package: Package, device: Device) -> None:
        (name,) = package.graphs
        self._graph, self._said = name, package.signature(name)
        self._device = device
        self._entries = entries(package)
        self._sound: np.ndarray | None = None
        _check_names(self._said, device.names, package)
        device.skip([each for state in self._said.states for each in (state.name, state.output)])

    def signature(self, graph: str) -> IoSignature:
        """As the runtime knows it: which slots, how much context and how many logits are this session's business."""
        said = self._said
        if graph == ENCODER and self._hears:
            sound = tuple(tensor for tensor in said.inputs if tensor.name == SOUND)
            return IoSignature(graph=ENCODER, inputs=sound, outputs=())
        if graph != DECODER:
            return said
        ours = {SLOTS, CONTEXT, KEPT, SOUND}
        index = Tensor(name=INDEX, dtype="int64", axes=("batch_size", "num_logits"))
        inputs = tuple(tensor for tensor in said.inputs if tensor.name not in ours)
        return said.with_inputs((*inputs, index))

    def allocate(self, graph: str, batch_size: int, ctx_len: int) -> States:
        """The device's own states; they have one size. Adapters begin as those that change nothing."""
        if graph == DECODER and self._said.states:
            self._check_sizes(batch_size, ctx_len)
        adapters = (state for state in self._said.states if state.kind == "adapter")
        shapes = {state.name: tuple(axis for axis in state.axes if isinstance(axis, int)) for state in adapters}
        return States({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})

    def hold(self, states: States, values: Mapping[str, np.ndarray]) -> None:
        """Sends these along with the next run; they stay on the device."""
        states.waiting |= {name: np.array(value) for name, value in values.items()}

    def contents(self, states: States) -> Mapping[str, np.ndarray]:
        """They never leave the device."""
        raise RunError(
            "run.speculation",
            "the model keeps states on its devices that cannot be taken back when a draft was wrong",
            hint="draft with another model, or leave decoding.draft out",
        )

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], states: States) -> Mapping[str, np.ndarray]:
        """Runs once, or once for each slot or token where no compiled shape is wider."""
        if graph == ENCODER and self._hears:
            self._sound = np.array(inputs[SOUND])  # it is heard in the next run of the decoder
            return {}
        if graph != DECODER:
            (shape,) = (each for each in self._entries if each.fits(inputs, self._said))
            return self._send(shape, dict(inputs), states)
        entry = self._choose(inputs)
        if entry is None and inputs[TOKENS].shape[1] == 1:
            newest = inputs[POSITIONS].max()
            raise RunError("run.shape", f"position {newest} is beyond the compiled context", hint="build a longer one")
        if entry is None:
            return {"logits": self._token_by_token(inputs, states)}
        return {"logits": self._in_slots(entry, inputs, states)}

    @property
    def _comes_and_goes(self) -> bool:
        return any(tensor.name == SLOTS for tensor in self._said.inputs)

    @property
    def _hears(self) -> bool:
        return any(tensor.name == SOUND for tensor in self._said.inputs)

    def _check_sizes(self, batch_size: int, ctx_len: int) -> None:
        first = self._entries[0]
        # Of continuous batching any rows of the cache may take part, together or one by one.
        slots = first.symbols.get("full_batch_size", first.rows)
        together = {entry.rows for entry in self._entries} <= ({1, batch_size} if self._comes_and_goes else {slots})
        if ctx_len != first.context or not (together and batch_size <= slots):
            raise RunError(
                "run.shape",
                f"{batch_size} rows of {ctx_len} slots, but the package is compiled for {slots} of {first.context}",
                hint="build a package for these sizes",
            )

    def _choose(self, inputs: Mapping[str, np.ndarray]) -> Entry | None:
        """The least work among the compiled shapes that take the tokens, give the logits and read the context."""
        width, asked, positions = inputs[TOKENS].shape[1], inputs[INDEX].shape[1], inputs[POSITIONS]
        newest, busy = positions.max(), (positions != PADDING).any(axis=1).sum()
        hears = self._sound is not None
        fitting = [
            entry
            for entry in self._entries
            if entry.width >= width and entry.kept >= asked and entry.reads > newest and entry.hears == hears
        ]
        return min(fitting, key=lambda entry: (entry.width, max(busy / entry.rows, 1), entry.reads), default=None)

    def _in_slots(self, entry: Entry, inputs: Mapping[str, np.ndarray], states: States) -> np.ndarray:
        """Logits [rows, asked, words]: of all rows at once, or of as many slots as were compiled to run together."""
        rows = len(inputs[TOKENS])
        if entry.rows == rows:
            return self._logits(entry, inputs, np.arange(rows), states)
        assert entry.rows == 1, "prefill beside other rows is compiled for one slot"
        # Slots that idle are not run: what stands in their place is never read.
        made: np.ndarray | None = None
        for slot in np.flatnonzero((inputs[POSITIONS] != PADDING).any(axis=1)):
            own = {name: array[slot : slot + 1] for name, array in inputs.items()}
            logits = self._logits(entry, own, np.array([slot]), states)
            if made is None:
                made = np.zeros((rows, *logits.shape[1:]), logits.dtype)
            made[slot] = logits[0]
        assert made is not None, "a turn has rows"
        return made

    def _logits(self, entry: Entry, inputs: Mapping[str, np.ndarray], slots: np.ndarray, states: States) -> np.ndarray:
        """The compiled graph gives the last rows of each text; those that are asked for are picked from them."""
        feed = {name: array for name, array in inputs.items() if name != INDEX}
        missing = ((0, 0), (0, entry.width - inputs[TOKENS].shape[1]))
        feed[TOKENS] = np.pad(inputs[TOKENS], missing)
        feed[POSITIONS] = np.pad(inputs[POSITIONS], missing, constant_values=PADDING)
        feed[SLOTS] = slots[:, None]
        logits = self._send(entry, feed, states)["logits"]
        if entry.kept == 1:
            return logits
        last = feed[POSITIONS].argmax(axis=1, keepdims=True)
        first = np.maximum(last + 1 - entry.kept, 0)
        places = np.clip(inputs[INDEX] - first, 0, entry.kept - 1)
        return np.take_along_axis(logits, places[:, :, None], axis=1)

    def _token_by_token(self, inputs: Mapping[str, np.ndarray], states: States) -> np.ndarray:
        """Logits at the positions that are asked for, from runs of one token."""
        index = inputs[INDEX]
        found: list[np.ndarray] = []
        for column in range(inputs[TOKENS].shape[1]):
            one = {**inputs, INDEX: np.zeros_like(index[:, :1])}
            one |= {name: inputs[name][:, column : column + 1] for name in (TOKENS, POSITIONS)}
            found.append(np.array(self.run(DECODER, one, states)["logits"]))
        return np.take_along_axis(np.concatenate(found, axis=1), index[:, :, None], axis=1)

    def _send(self, entry: Entry, feed: dict[str, np.ndarray], states: States) -> dict[str, np.ndarray]:
        """Runs the program once in the shape of `entry`."""
        taken = {tensor.name: tensor for tensor in self._said.inputs}
        feed |= {name: np.zeros(entry.shape(taken[name].axes), np.int64) for name in _COUNTED & set(taken)}
        if SOUND in taken:
            shape = entry.shape(taken[SOUND].axes)
            feed[SOUND] = np.zeros(shape, np.float32) if self._sound is None else _heard(self._sound, shape)
            self._sound = None
        waiting, states.waiting = states.waiting, {}
        given = {name: array for name, array in feed.items() if name in taken and name in self._device.names}
        outputs = {tensor.name: entry.shape(tensor.axes) for tensor in self._said.outputs}
        made = self._device.run({**given, **waiting}, outputs)
        self._device.skip(waiting)
        return made


def _heard(sound: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if sound.shape != shape:
        raise RunError(
            "run.shape",
            f"a sound of {sound.shape[-1]} frames, but the package is compiled for {shape[-1]}",
            hint="build without specialization.encoder_ctx_len",
        )
    return sound


def _check_names(said: IoSignature, found: frozenset[str], package: Package) -> None:
    """The program takes and gives what the package says."""
    tensors = [*said.inputs, *said.outputs]
    names = {tensor.name for tensor in tensors} | {each for state in said.states for each in (state.name, state.output)}
    if strangers := sorted(names - found - _COUNTED):
        raise BackendError(
            "backend.file",
            f"{package.graph(said.graph).name}: the program has no {strangers[0]}, which its package speaks of",
            where=str(package.path),
            hint="`qeffbuild verify` tells whether the package is damaged; else build it again",
        )
