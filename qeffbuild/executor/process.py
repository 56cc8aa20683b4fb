"""The parent's side of a worker: start it, hand it a step, watch its time and memory, end it with all its children."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qeffbuild import errors
from qeffbuild.errors import LimitError, QeffBuildError, StepError

WATCH_S = 0.2  # between two looks at memory and time
WORKER = Path(__file__).with_name("worker.py")


class Worker:
    """A child process in a session of its own, started by the first step and replaced after a step that went wrong."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = self._answers = self._lifeline = -1
        self._unread = b""

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def run(
        self,
        request: Mapping[str, Any],
        *,
        timeout_s: float,
        memory_mb: int | None,
        progress: Callable[[float, str], None],
        check: Callable[[], None],
    ) -> int:
        """Carry one step out; its peak RSS in MB. `check` is called now and then, and raises to give up."""
        name = request["name"]
        peak = 0
        try:
            if self._process is None:
                self._start(request["log"])
            self._send(request)
            deadline = time.monotonic() + timeout_s
            for answer in self._listen():
                check()
                if answer is None:
                    peak = max(peak, self._watch(name, deadline, timeout_s, memory_mb))
                elif "progress" in answer:
                    progress(*answer["progress"])
                else:
                    return max(peak, self._finish(answer))
        except BaseException:
            self.stop()
            raise
        raise self._death(name)

    def stop(self) -> None:
        """Kill the worker and whatever it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for descriptor in (self._requests, self._answers, self._lifeline):
            os.close(descriptor)
        self._unread = b""

    def _start(self, log: str) -> None:
        theirs_in, self._requests = os.pipe()
        self._answers, theirs_out = os.pipe()
        theirs_life, self._lifeline = os.pipe()
        given = (theirs_in, theirs_out, theirs_life)
        try:
            with open(log, "ab") as file:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(WORKER), *map(str, given)],
                    pass_fds=given,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    cwd="/",
                    start_new_session=True,
                )
        except BaseException:
            for descriptor in (self._requests, self._answers, self._lifeline):
                os.close(descriptor)
            raise
        finally:
            for descriptor in given:
                os.close(descriptor)
        self._send([os.path.abspath(folder) for folder in sys.path])

    def _send(self, said: Any) -> None:
        with suppress(BrokenPipeError):  # it died: reading its answer tells how
            data = json.dumps(said).encode() + b"\n"
            while data:
                data = data[os.write(self._requests, data) :]

    def _listen(self) -> Iterator[dict[str, Any] | None]:
        """Its answers; None whenever it was silent for a while. Ends when it has died."""
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                yield json.loads(line)
                continue
            if not select.select([self._answers], [], [], WATCH_S)[0]:
                yield None
                continue
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                return
            self._unread += chunk

    def _watch(self, name: str, deadline: float, timeout_s: float, memory_mb: int | None) -> int:
        if time.monotonic() > deadline:
            raise LimitError("limit.time", f"{name}: not done after {timeout_s:g} s", hint="launch.timeout_s=SECONDS")
        assert self._process is not None
        used = sum(map(_rss_mb, (self._process.pid, *descendants(self._process.pid))))
        if memory_mb is not None and used > memory_mb:
            raise LimitError(
                "limit.memory", f"{name}: uses {used} MB, more than {memory_mb} MB", hint="launch.memory_mb=MB"
            )
        return used

    def _finish(self, answer: Mapping[str, Any]) -> int:
        assert self._process is not None
        if error := answer.get("error"):
            raise revive(error)
        if descendants(self._process.pid):
            self.stop()  # what a step left running could still write into its output
        peak: int = answer["peak_rss_mb"]
        return peak

    def _death(self, name: str) -> StepError:
        assert self._process is not None
        process = self._process
        code = process.wait()
        self.stop()
        if code == -signal.SIGKILL:
            return StepError("step.killed", f"{name}: its process was killed", hint="was the machine out of memory?")
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return StepError("step.died", f"{name}: its process {how}", hint="read its log")


def revive(said: Mapping[str, Any]) -> QeffBuildError:
    """The error that an action raised in another process, with its own class and kind."""
    cls: type[QeffBuildError] = getattr(errors, said["class"])
    return cls(said["kind"], said["message"], where=said["where"], hint=said["hint"])


def descendants(pid: int) -> list[int]:
    """Children of all threads, their children and so on; those that ended and were not waited for do not count."""
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                if not _is_zombie(int(child)):
                    found += [int(child), *descendants(int(child))]
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _rss_mb(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except OSError:
        return 0
