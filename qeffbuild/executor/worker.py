"""The child process: reads steps as JSON lines, runs their actions one after the other, answers in JSON lines.

Started as a script, with three descriptors: requests, answers, lifeline. Modules stay imported between steps, so that
torch is loaded once.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRESS_EVERY_S = 0.1
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}

Answer = Callable[[Mapping[str, Any]], None]


def main(requests: int, answers: int, lifeline: int) -> None:
    die_with_parent(lifeline)
    with open(requests, "rb") as incoming, open(answers, "wb") as outgoing:

        def answer(said: Mapping[str, Any]) -> None:
            outgoing.write(json.dumps(said).encode() + b"\n")
            outgoing.flush()

        sys.path[:] = json.loads(incoming.readline() or b"[]")
        for line in incoming:
            answer(_carry_out(json.loads(line), answer))


def die_with_parent(lifeline: int) -> None:
    """Nobody ever writes to the lifeline; when its other end closes, the kernel kills our whole process group.

    A parent-death signal would reach this process only and leave a compiler behind that it has started.
    """
    f_setsig = 10  # linux/fcntl.h; Python has no name for it
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, f_setsig, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it closed before we listened
        os._exit(1)


def _carry_out(request: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    os.chdir(request["cwd"])
    os.environ["TMPDIR"] = request["cwd"]
    _reset_peak()
    _log_to(request["log"])
    try:
        run_action(request, _progress_to(answer))
        return {"done": True, "peak_rss_mb": _peak_mb()}
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # SystemExit too: an action that exits has failed
        return {"error": describe(problem, request)}
    finally:
        with suppress(OSError):  # the log is on the same disk: a full one keeps nobody from saying so
            sys.stdout.flush()
            sys.stderr.flush()
        os.chdir("/")


def run_action(request: Mapping[str, Any], progress: Callable[[float, str], None]) -> None:
    """Call the action's `run` with what the request says."""
    from qeffbuild.executor.work import Work

    action = importlib.import_module(request["action"])
    locate = _located_by(request["locate"])
    action.run(
        Work(
            name=request["name"],
            params=request["params"],
            inputs={role: Path(path) for role, path in request["inputs"].items()},
            leaves={name: locate(path) for name, path in request["leaves"].items()},
            out=Path(request["out"]),
            progress=progress,
        )
    )


def describe(problem: BaseException, request: Mapping[str, Any]) -> dict[str, Any]:
    """An exception as JSON; one of ours keeps its class and kind, any other becomes a step that failed."""
    from qeffbuild.errors import LimitError, QeffBuildError, StepError
    from qeffbuild.store.disk import storage_error

    if not isinstance(problem, QeffBuildError):
        with suppress(OSError):
            traceback.print_exception(problem)
        if (trouble := disk_trouble(problem)) is not None:
            problem = storage_error(trouble, Path(request["root"]))
    if isinstance(problem, MemoryError):
        problem = LimitError("limit.memory", f"{request['name']}: out of memory", hint="build a smaller model at once")
    if not isinstance(problem, QeffBuildError):
        last = traceback.format_exception_only(problem)[-1].strip()
        problem = StepError("step.failed", f"{request['name']}: {last}", hint="read its log")
    return {"class": type(problem).__name__, **problem.as_json()}


def disk_trouble(problem: BaseException) -> OSError | None:
    """What the disk said, if that is behind an error: libraries wrap it in their own, with its words in the text."""
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK:
            return seen
        for number in _DISK:
            if os.strerror(number) in str(seen):
                return OSError(number, os.strerror(number))
        seen = seen.__cause__ or seen.__context__
    return None


def _located_by(name: str | None) -> Callable[[str], Path]:
    if name is None:
        return Path
    module, _, function = name.partition(":")
    locate: Callable[[str], Path] = getattr(importlib.import_module(module), function)
    return locate


def _progress_to(answer: Answer) -> Callable[[float, str], None]:
    last = 0.0

    def progress(fraction: float, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_EVERY_S or fraction >= 1:
            last = now
            answer({"progress": [float(fraction), what]})

    return progress


def _log_to(path: str) -> None:
    """Everything that we or our children print from now on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _reset_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # not allowed here: the peak is then that of the process so far


def _peak_mb() -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return 0


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
