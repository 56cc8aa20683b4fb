"""A graph that was not placed whole -> the nodes that the device does not take, and why."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from qeffbuild.backends.qnn.htp.provider import PROVIDER, RECORDED, VERBOSE, open_graph
from qeffbuild.errors import ModelError

_SAID = re.compile(r"Operator type: (\S+) Node name: (.*?) Node index: \d+[^\n]*\n\s*REASON : ([^\n]*)")


@dataclass(frozen=True, slots=True)
class Unplaced:
    """One node that would be left to the processor; `why` is the provider's own word, where it has one."""

    op_type: str
    name: str
    why: str | None


def unplaced(path: Path, provider: Mapping[str, str]) -> list[Unplaced]:
    """What of the graph the provider leaves to others, found by letting it."""
    with TemporaryFile() as said:
        with _stderr_to(said):
            session = open_graph(path, provider, config=RECORDED, severity=VERBOSE)
        said.seek(0)
        found = _SAID.findall(said.read().decode(errors="replace"))
    reasons = {name: why.strip().rstrip(".") for _, name, why in found}
    return [
        Unplaced(node.op_type, node.name, reasons.get(node.name))
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    ]


def refusal(left: list[Unplaced]) -> ModelError:
    first, more = left[0], len(left) - 1
    why = f": {first.why}" if first.why else ""
    rest = f", and {more} more" if more else ""
    return ModelError(
        "onnx.unsupported",
        f"{first.op_type} ({first.name}) is not placed on Hexagon{why}{rest}",
        hint="this model, or what was asked of it, needs another backend",
    )


@contextmanager
def _stderr_to(file: IO[bytes]) -> Iterator[None]:
    """What is written to file descriptor 2 goes to the file: reasons are only ever logged."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
