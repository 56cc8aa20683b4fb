"""A package -> a session of its backend: the one door through which the runtime runs a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from qeffbuild import backends
from qeffbuild.package import Package
from qeffbuild.signature import IoSignature


class Session(Protocol):
    """A package loaded on its devices. States belong to the session: the runtime only carries them about."""

    any_length: bool  # inputs of every length run; else only those that were built

    def signature(self, graph: str) -> IoSignature: ...

    def allocate(self, graph: str, batch_size: int, ctx_len: int) -> Any:
        """Retained state for `batch_size` rows, to be handed to `run`."""

    def hold(self, states: Any, values: Mapping[str, np.ndarray]) -> None:
        """Keeps the inputs that runs with these states only read: `held` of the signature, and adapters' weights."""

    def contents(self, states: Any) -> Mapping[str, np.ndarray]:
        """The states until the next run, by name, to be read and written; a RunError where a device keeps them."""

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], states: Any) -> Mapping[str, np.ndarray]:
        """Runs once and updates the states in place; outputs are views that hold until the next run."""


def open_session(package: Package, *, threads: int | None = None, devices: Sequence[int] = ()) -> Session:
    """The session of the backend that the package was built for; only that backend is imported.

    Without `devices`, accelerators count from 0; the processor of this machine has no number.
    """
    return backends.room(package.backend, "session").open_session(package, threads=threads, devices=devices)
