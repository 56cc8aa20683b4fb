"""What an action is handed: its step, its input folders, and the one folder it may write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _silent(fraction: float, what: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """`inputs` maps a role to the finished (read-only) folder of its step, `leaves` a leaf to its path."""

    name: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Path]
    leaves: Mapping[str, Path]
    out: Path
    progress: Callable[[float, str], None] = field(default=_silent)  # fraction done (0..1), what is being done
