"""A function that makes text -> its text, from a forked child that may take only so much time and memory.

A template can loop without end and without output, or ask for a string of a gigabyte: neither can be stopped from
inside its process. The child shares our memory as it stands, so the fork costs milliseconds.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from qeffbuild.errors import LimitError, TemplateError

_CHUNK = 1 << 16
_TEXT, _ERROR = b"T", b"E"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one document may cost."""

    seconds: float = 10.0
    memory_mb: int = 256
    output_bytes: int = 16 << 20


def run_bounded(make: Callable[[], str], what: str, limits: Limits) -> str:
    """What `make()` returns or raises (a TemplateError); LimitError when it takes too long or falls over."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        _answer(make, what, sink, limits)
    os.close(sink)
    try:
        said = _read_all(source, time.monotonic() + limits.seconds)
    finally:
        os.close(source)
        os.kill(child, signal.SIGKILL)  # it has said all, or too little
        os.waitpid(child, 0)
    if said is None:
        raise LimitError("limit.time", f"{what}: no document after {limits.seconds:g} s", hint="look for a loop in it")
    if not said:
        raise LimitError("limit.memory", f"{what}: needs more than {limits.memory_mb} MB")
    if said[:1] == _TEXT:
        return said[1:].decode()
    kind, message, where, hint = json.loads(said[1:])
    raise TemplateError(kind, message, where=where, hint=hint)


def _read_all(source: int, deadline: float) -> bytes | None:
    """All that the child says until it closes its end; None when the time is over before that."""
    pieces: list[bytes] = []
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([source], [], [], left)[0]:
            break
        if not (piece := os.read(source, _CHUNK)):
            return b"".join(pieces)
        pieces.append(piece)
    return None


def _answer(make: Callable[[], str], what: str, sink: int, limits: Limits) -> NoReturn:
    """The child's whole life: one answer, then gone, without the parent's exit handlers.

    What the parent has not collected yet stays: it may wait for threads as it goes, and a child has none of them.
    """
    gc.freeze()
    try:
        _limit_memory(limits.memory_mb)
        said = _TEXT + make().encode()
    except TemplateError as error:
        said = _ERROR + json.dumps([error.kind, error.message, error.where, error.hint]).encode()
    except MemoryError:
        said = b""
    except BaseException as error:
        said = _ERROR + json.dumps(["template.value", f"{what}: {error!r}", None, None]).encode()
    try:
        for start in range(0, len(said), _CHUNK):
            os.write(sink, said[start : start + _CHUNK])
    finally:
        os._exit(0)


def _limit_memory(memory_mb: int) -> None:
    """At most so much more than the process has mapped already."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # not Linux: the time and the size of the output are bounded all the same
        return
    import resource

    mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (memory_mb << 20), hard))
