"""Cloud AI 100: graphs, documents and the command line for its compiler; see docs/cloud_ai_100.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qeffbuild.spec.types import BuildSpec


def require(spec: BuildSpec) -> None:
    """Raises AbsentError before the first step of a build whose last one would miss the compiler."""
    from pathlib import Path

    from qeffbuild.backends.qaic.command import COMPILER
    from qeffbuild.backends.qaic.compiler import find_compiler

    named = spec.backend.options.compiler
    find_compiler(Path(named or COMPILER), is_named=named is not None)


def require_devices(spec: BuildSpec) -> None:
    """Raises AbsentError before a build whose package could not run here: no binding, or no such device."""
    from qeffbuild.cloud_ai_100.binding import require

    require(spec.device_group, spec.model.name)


def settle(spec: BuildSpec) -> BuildSpec:
    """What only this machine can say, said; files that options name are there."""
    from qeffbuild.backends.qaic import machine

    return machine.settle(spec)


def doctor() -> tuple[str, str | None]:
    """What there is of the SDK here, and what to do where something is missing."""
    from pathlib import Path

    from qeffbuild.backends.qaic.command import COMPILER
    from qeffbuild.backends.qaic.compiler import find_compiler
    from qeffbuild.cloud_ai_100.binding import RUNTIME, is_installed
    from qeffbuild.errors import AbsentError

    binding = f"{RUNTIME} {'is' if is_installed() else 'is not'} installed"
    try:
        compiler = find_compiler(Path(COMPILER), is_named=False)
    except AbsentError as error:
        return f"no compiler; {binding}", error.hint
    return f"{compiler}; {binding}", None
