"""The graphs of a step's folder, by name.

One graph is graph.onnx with io.json; so is the main one of several. Each other one has its name: encoder.onnx with
encoder.io.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qeffbuild.signature import IoSignature

GRAPH, IO = "graph.onnx", "io.json"


@dataclass(frozen=True, slots=True)
class Member:
    """One graph of a folder: its signature, and what comes before the names of all documents about it."""

    signature: IoSignature
    folder: Path
    prefix: str  # "" for the main graph, else its name and a dot

    @property
    def name(self) -> str:
        return self.signature.graph

    @property
    def file(self) -> str:
        return f"{self.prefix}onnx" if self.prefix else GRAPH

    @property
    def graph(self) -> Path:
        return self.folder / self.file

    @property
    def io(self) -> Path:
        return self.folder / f"{self.prefix}{IO}"


def members(folder: Path) -> tuple[Member, ...]:
    """The main graph first, the others by name."""
    return (Member(IoSignature.load(folder / IO), folder, ""), *_others(folder))


def _others(folder: Path) -> Iterator[Member]:
    for path in sorted(folder.glob(f"*.{IO}")):
        yield Member(IoSignature.load(path), folder, path.name.removesuffix(IO))


def place(folder: Path, signature: IoSignature, *, is_main: bool) -> Member:
    """Where a graph is written; its signature is."""
    member = Member(signature, folder, "" if is_main else f"{signature.graph}.")
    signature.save(member.io)
    return member
