"""A Hexagon package loaded: prefill and decode as one graph to the runtime, each run by the binary of its width.

Sizes are fixed. A run of the prefill's width goes there, one of a single token to decode; whatever else is asked, such
as the logits of every position, is decoded token by token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qeffbuild.backends.qnn.htp.provider import open_graph, stdout_to_stderr
from qeffbuild.errors import AbsentError, BackendError, RunError
from qeffbuild.package import Package
from qeffbuild.signature import IoSignature

GRAPH = "decoder"


def open_session(package: Package, *, threads: int | None = None) -> Session:
    said = package.manifest["graphs"]
    if package.manifest.get("weight_sharing"):
        raise AbsentError(
            "backend.absent",
            f"{package.model['name']}: prefill and decode share weights, which only a Hexagon device loads",
            hint="build with backend.weight_sharing=false to run it here",
        )
    by_width = {graph["seq_len"]: _load(package, name, threads) for name, graph in said.items()}
    return Session(package, by_width)


def _load(package: Package, name: str, threads: int | None) -> Any:
    try:
        return open_graph(package.graph(name), {"backend_type": "htp"}, threads=threads)
    except AbsentError:
        raise
    # ONNX Runtime's exceptions have no common base but this.
    except Exception as cause:
        problem = next(iter(str(cause).strip().splitlines()), "no reason was given")
        raise BackendError(
            "backend.file",
            f"{package.graph(name).name}: the QNN provider does not load it: {problem}",
            where=str(package.path),
            hint="`qeffbuild verify` tells whether the package is damaged; else build it with this onnxruntime-qnn",
        ) from cause


@dataclass(slots=True)
class States:
    """The retained states of all rows."""

    batch_size: int
    ctx_len: int
    arrays: dict[str, np.ndarray]


class Session:
    """A package on one Hexagon processor. Not for two threads at once."""

    any_length = False

    def __init__(self, package: Package, by_width: Mapping[int, Any]) -> None:
        self._signature = package.signature(GRAPH)
        self._sizes = package.manifest["sizes"]
        self._by_width = by_width

    def signature(self, graph: str) -> IoSignature:
        return self._signature

    def allocate(self, graph: str, batch_size: int, ctx_len: int) -> States:
        """Zeroed states; a binary has one size."""
        asked = {"batch_size": batch_size, "ctx_len": ctx_len}
        if asked != self._sizes:
            raise RunError(
                "run.shape",
                f"{batch_size} rows of {ctx_len} slots, but the package is compiled for "
                f"{self._sizes['batch_size']} of {self._sizes['ctx_len']}",
                hint="build a package for these sizes",
            )
        arrays = {
            state.name: np.zeros([axis if isinstance(axis, int) else asked[axis] for axis in state.axes], state.dtype)
            for state in self._signature.states
        }
        return States(batch_size, ctx_len, arrays)

    def hold(self, states: States, values: Mapping[str, np.ndarray]) -> None:
        """No graph of these packages has inputs that are only read."""
        assert not values, "refused while planning"

    def contents(self, states: States) -> Mapping[str, np.ndarray]:
        """What the next run is given."""
        return states.arrays

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], states: States) -> dict[str, np.ndarray]:
        """Runs once, or once for each token, and updates the states."""
        width, asked = inputs["input_ids"].shape[1], inputs["logits_index"].shape[1]
        if asked == 1 and width in self._by_width:
            return self._once(self._by_width[width], inputs, states)
        return self._token_by_token(inputs, states)

    def _once(self, session: Any, inputs: Mapping[str, np.ndarray], states: States) -> dict[str, np.ndarray]:
        names = [tensor.name for tensor in self._signature.outputs]
        kept = {state.output: state.name for state in self._signature.states}
        with stdout_to_stderr():
            values = session.run([*names, *kept], {**inputs, **states.arrays})
        found = dict(zip([*names, *kept], values, strict=True))
        states.arrays = {name: found.pop(output) for output, name in kept.items()}
        return found

    def _token_by_token(self, inputs: Mapping[str, np.ndarray], states: States) -> dict[str, np.ndarray]:
        """Logits at the positions that are asked for, from the decode graph."""
        first = np.zeros_like(inputs["logits_index"][:, :1])
        found = []
        for column in range(inputs["input_ids"].shape[1]):
            one = {name: inputs[name][:, column : column + 1] for name in ("input_ids", "position_ids")}
            found.append(self._once(self._by_width[1], {**one, "logits_index": first}, states)["logits"])
        logits = np.concatenate(found, axis=1)
        return {"logits": np.take_along_axis(logits, inputs["logits_index"][:, :, None], axis=1)}
