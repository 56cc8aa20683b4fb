"""One row of the table of bad inputs, and how a command line must end that meets it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Files = dict[str, str | bytes]


class Said(NamedTuple):
    """How a command line ended."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Row:
    """`words` are refused with `kind` and `exit_code`; `says` is part of the message.

    `prepare` makes what `files` cannot say in a folder of the user's. A row that is `alone` runs in a process of its
    own, as a user starts it; the others share the process of the tests, for speed.
    """

    number: str
    words: tuple[str, ...]
    kind: str
    exit_code: int = 2
    says: str = ""
    files: Files = field(default_factory=dict)
    prepare: Callable[[Path], object] | None = None
    alone: bool = False

    def __str__(self) -> str:
        return f"{self.number} {self.kind}"


Call = Callable[[Row, Path], Said]


def plan(number: str, *words: str, kind: str, **more: Any) -> Row:
    return Row(number, ("plan", *words), kind, **more)


def conf(number: str, text: str | bytes, kind: str, **more: Any) -> Row:
    """A user's own conf/quantization/mine.yaml with `text` in it."""
    files = {"conf/quantization/mine.yaml": text}
    return Row(number, ("plan", "quantization=mine"), kind, files=files, **more)


def safetensors(header: dict[str, Any], size: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def entry(shape: list[int], start: int) -> dict[str, Any]:
    """What a safetensors header says of a float32 tensor."""
    size = 4
    for dim in shape:
        size *= dim
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, start + size]}


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def expect_refusal(row: Row, call: Call, folder: Path) -> Said:
    """The row ends in its kind and exit code, in three lines at most, and leaves nothing behind."""
    project = folder / "project"
    project.mkdir()
    write(project, row.files)
    if row.prepare:
        row.prepare(project)
    before = tree(folder)

    said = call(row, project)

    lines = said.stderr.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error[")]
    assert len(errors) == 1, said.stderr
    assert lines[errors[0]].startswith(f"error[{row.kind}]: "), said.stderr
    assert said.exit_code == row.exit_code
    assert row.says in said.stderr
    assert len(lines) - errors[0] <= 3, said.stderr
    assert all(line.isprintable() for line in lines)
    assert "Traceback" not in said.stderr + said.stdout
    assert "s3cr3t" not in said.stderr + said.stdout
    assert tree(folder) == before
    return said
