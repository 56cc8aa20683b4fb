"""An external command -> its output in the step's log, or an error that says how to repeat it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from qeffbuild.errors import AbsentError, LimitError, StepError
from qeffbuild.executor.process import descendants

LAST_LINES = 20


def run_command(
    argv: Sequence[str | Path],
    *,
    timeout_s: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[str, ...]:
    """Run without a shell; `env` is added to ours. Prints what the command prints; returns its last lines."""
    words = [os.fspath(word) for word in argv]
    command = shlex.join(words)
    print(f"$ {command}", flush=True)  # noqa: T201 - stdout of an action is its log
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env} if env else None,
            cwd=cwd,
        )
    except (FileNotFoundError, PermissionError) as problem:
        raise AbsentError("command.absent", f"{words[0]}: {problem.strerror}", hint="is it installed?") from problem
    last, is_late = _stream(process, timeout_s)
    if is_late:
        raise LimitError("limit.time", f"{words[0]}: not done after {timeout_s:g} s", hint=f"repeat it: {command}")
    if process.returncode:
        said = next((line for line in reversed(last) if line.strip()), "it said nothing")
        raise StepError("step.command", f"{_ending(words[0], process.returncode)}: {said}", hint=f"repeat: {command}")
    return last


def _stream(process: subprocess.Popen[bytes], timeout_s: float | None) -> tuple[tuple[str, ...], bool]:
    """Copy the output as it comes; (last lines, whether the time ran out)."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(timeout_s, end) if timeout_s is not None else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                text = line.decode(errors="replace")
                sys.stdout.write(text)
                last.append(text.rstrip())
        process.wait()
    except BaseException:
        _kill(process)
        process.wait()
        raise
    finally:
        if timer:
            timer.cancel()
        sys.stdout.flush()
    return tuple(last), late.is_set()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started: a child that lives on would hold our end of the pipe open."""
    for pid in (process.pid, *descendants(process.pid)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ending(program: str, code: int) -> str:
    return f"{program} was killed by signal {-code}" if code < 0 else f"{program} exited with {code}"
