"""The adapters of a package, by name: the id that a row asks for, or the weights that go in as inputs."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qeffbuild.errors import RunError
from qeffbuild.package import ADAPTERS, Package
from qeffbuild.spec.types import BASE


@dataclass(frozen=True, slots=True)
class Adapters:
    """`names` in the order of their ids, which count from 1; 0 is the model alone."""

    names: tuple[str, ...] = ()
    folder: Path | None = None  # where each one's weights are, if they are inputs

    @classmethod
    def of(cls, package: Package) -> Adapters:
        said = package.manifest.get("adapters")
        if said is None:
            return cls()
        return cls(tuple(said["names"]), package.path / ADAPTERS if said["form"] == "inputs" else None)

    def id_of(self, asked: str | None) -> int:
        """The id of the adapter of that name; without a name, that of the first one."""
        if asked is None:
            return min(1, len(self.names))
        if asked == BASE:
            return 0
        if asked in self.names:
            return self.names.index(asked) + 1
        close = difflib.get_close_matches(asked, [*self.names, BASE], n=1)
        known = ", ".join([*self.names, BASE])
        hint = f"did you mean decoding.adapter={close[0]}?" if close else f"there are: {known}"
        raise RunError("run.adapter", f"decoding.adapter: the package has no adapter {asked!r:.60}", hint=hint)

    def weights(self, number: int) -> dict[str, np.ndarray] | None:
        """What an adapter puts into its inputs; None for the model alone."""
        from safetensors.numpy import load_file

        if number == 0 or self.folder is None:
            return None
        return load_file(self.folder / f"{self.names[number - 1]}.safetensors")
