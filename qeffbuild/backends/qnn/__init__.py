"""QNN: Hexagon (target=htp, by a wheel) and Cloud AI 100 (target=aic, by the SDK); see docs/qnn.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qeffbuild.spec.types import BuildSpec


def require(spec: BuildSpec) -> None:
    """Raises AbsentError before the first step of a build whose last one would miss its compiler."""
    if spec.backend.options.target == "htp":
        from qeffbuild.backends.qnn.htp.wheel import find_wheel

        find_wheel()
        return
    from qeffbuild.backends.qnn.aic.sdk import find_sdk

    find_sdk(spec.backend.options.sdk)


def settle(spec: BuildSpec) -> BuildSpec:
    """The spec as it is; raises BackendError for a file that an option names and no tool could read."""
    from pathlib import Path

    from qeffbuild.errors import BackendError

    options = spec.backend.options
    for name in ("config", "dlc_file", "calibration_file", "templates"):
        said = getattr(options, name)
        kind = "folder" if name == "templates" else "file"
        if said is not None and not (Path(said).is_dir() if kind == "folder" else Path(said).is_file()):
            raise BackendError("backend.file", f"backend.{name}: {said} is no {kind}", hint="is the path right?")
    if options.config is not None:
        from qeffbuild.backends.qnn.aic.overrides import read_overrides, skipped_for_nothing

        if read_overrides(Path(options.config)).skips_converter and options.dlc_file is None:
            raise skipped_for_nothing()
    return spec


def require_devices(spec: BuildSpec) -> None:
    """Raises AbsentError where what is built could not run; Hexagon's simulator comes with its compiler."""
    if spec.backend.options.target == "aic":
        from qeffbuild.cloud_ai_100.binding import require

        require(spec.device_group, spec.model.name)


def doctor() -> tuple[str, str | None]:
    """Which of the two ways is open here, and what to do where none is."""
    from qeffbuild.backends.qnn.aic.sdk import find_sdk
    from qeffbuild.backends.qnn.htp.wheel import find_wheel
    from qeffbuild.errors import AbsentError

    found, hints = [], []
    try:
        found.append(f"htp: onnxruntime-qnn {find_wheel()}")
    except AbsentError as error:
        found.append("htp: no onnxruntime-qnn")
        hints.append(error.hint or "")
    try:
        found.append(f"aic: SDK in {find_sdk(None).root}")
    except AbsentError as error:
        found.append("aic: no SDK")
        hints.append(error.hint or "")
    return "; ".join(found), "; ".join(hints) if len(hints) == 2 else None
