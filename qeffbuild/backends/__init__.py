"""Backends by name: ours are the folders beside this file, others come as entry points."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from qeffbuild.errors import AbsentError

ENTRY_POINTS = "qeffbuild.backends"  # each names a package with the same files as the folders here


def names() -> tuple[str, ...]:
    """Every backend that can be named, sorted."""
    return tuple(sorted({*_ours(), *_offered()}))


def room(name: str, module: str) -> ModuleType:
    """One file of one backend, imported: `room("onnxruntime", "plan")`."""
    return import_module(f"{package_of(name)}.{module}")


def package_of(name: str) -> str:
    """The dotted name of the package that is this backend. Ours win, and cost no look at what is installed."""
    if name in _ours():
        return f"{__name__}.{name}"
    if place := _offered().get(name):
        return place
    import difflib

    known = names()
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean backend={close[0]}?" if close else f"backends here: {', '.join(known)}"
    raise AbsentError("backend.absent", f"backend: no backend is called {name!r}", hint=hint)


def _ours() -> set[str]:
    return {folder.parent.name for folder in Path(__file__).parent.glob("*/options.py")}


def _offered() -> dict[str, str]:
    """Backends of other distributions: name -> package. Looked up late: reading what is installed takes 20 ms."""
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
