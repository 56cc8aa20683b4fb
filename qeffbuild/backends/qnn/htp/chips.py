"""The Hexagon processors that binaries are compiled for: soc_model, and the architecture that belongs to it."""

from __future__ import annotations

from collections.abc import Iterator

from qeffbuild.errors import BackendError, QeffBuildError

# Pairs that were compiled for and run on the simulator. The provider takes any number without a word: of a wrong one
# it makes a binary for nothing, or says MEM_ALLOC; and beside soc_model it ignores htp_arch.
ARCHITECTURE = {36: 69, 43: 73, 52: 73, 57: 75, 60: 73, 69: 79, 87: 81, 88: 81}
DEFAULT_SOC = 60


def chip_faults(soc_model: int, htp_arch: int | None) -> Iterator[QeffBuildError]:
    known = ", ".join(f"{soc} (v{arch})" for soc, arch in ARCHITECTURE.items())
    if soc_model not in ARCHITECTURE:
        yield BackendError(
            "backend.option",
            f"backend.soc_model: {soc_model} is no chip known here",
            hint=f"one of: {known}",
        )
    elif htp_arch not in (None, ARCHITECTURE[soc_model]):
        right = ARCHITECTURE[soc_model]
        yield BackendError(
            "backend.option",
            f"backend.htp_arch: {htp_arch}, but soc_model {soc_model} has architecture {right}",
            hint=f"leave it out, or say backend.htp_arch={right}",
        )
