"""A build command under faults: kill it, fail its system calls, damage its store, run many at once; judge the next run.

The judgement is always the same: after a fault, the same command, run once more without it, must end with 0 and the
right product, without repair by hand. What was wrong is a Trial with a seed, so that it can be replayed.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

WRITING_CALLS = (
    "write pwrite64 fsync fdatasync rename renameat2 mkdir unlink chmod fchmod flock"
    " ftruncate utimensat copy_file_range"
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is put to the test. Each trial runs `command` in a fresh copy of `template`; `{work}` in it is that copy.

    `products` are the patterns of what a user sees, `stored` of what the store keeps; `log` is a file into which each
    step that really runs writes its name.
    """

    command: tuple[str, ...]
    template: Path
    products: tuple[str, ...] = ("product/**/*",)
    stored: tuple[str, ...] = (".cache/v1/entry/**/*", ".cache/v1/alias/**/*", ".cache/v1/index.sqlite*")
    log: str = "steps"
    environment: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 300.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One fault and what came of it. `verdict` is "ok" or what went wrong."""

    fault: str
    verdict: str
    detail: str = ""


@dataclass(frozen=True)
class Ended:
    code: int
    said: str


class Lab:
    """Makes trials of one target."""

    def __init__(self, target: Target, folder: Path, seed: int = 1) -> None:
        self.target = target
        self.random = random.Random(seed)
        self._folder = folder
        self._built = folder / "built"
        shutil.copytree(self.target.template, self._built)
        start = time.monotonic()
        ended = self.run(self._built)
        self.seconds = time.monotonic() - start
        assert ended.code == 0, ended.said
        self.golden = self.products(self._built)
        self.steps = self.ran(self._built)
        assert self.golden, "the command made no product"

    @contextmanager
    def copy(self, *, built: bool = False) -> Iterator[Path]:
        """A fresh folder, or one in which the command has run already."""
        work = Path(tempfile.mkdtemp(dir=self._folder))
        shutil.copytree(self._built if built else self.target.template, work, dirs_exist_ok=True)
        try:
            yield work
        finally:
            subprocess.run(["chmod", "-R", "u+w", work], check=False, stderr=subprocess.DEVNULL)
            shutil.rmtree(work, ignore_errors=True)

    # -- running ------------------------------------------------------------------------------------------------------

    def start(
        self, work: Path, *, before: Sequence[str] = (), after: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        words = [word.replace("{work}", str(work)) for word in self.target.command]
        return subprocess.Popen(
            [*before, *words, *after],
            cwd=work,
            env={**os.environ, **self.target.environment, "STEPLOG": str(work / self.target.log), **environment},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def end(self, process: subprocess.Popen[bytes]) -> Ended:
        try:
            said, _ = process.communicate(timeout=self.target.timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            return Ended(124, said.decode(errors="replace"))
        return Ended(process.returncode, said.decode(errors="replace"))

    def run(self, work: Path, *, before: Sequence[str] = (), after: Sequence[str] = (), **environment: str) -> Ended:
        return self.end(self.start(work, before=before, after=after, **environment))

    def ran(self, work: Path) -> Counter[str]:
        log = work / self.target.log
        return Counter(log.read_text().split() if log.exists() else [])

    def products(self, work: Path) -> dict[str, str]:
        return {
            str(path.relative_to(work)): sha256(path.read_bytes()).hexdigest()
            for path in _files(work, self.target.products)
        }

    def remove_products(self, work: Path) -> None:
        """So that the next run must take them from its store."""
        for pattern in self.target.products:
            path = work / pattern.split("/", 1)[0]
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    # -- judging ------------------------------------------------------------------------------------------------------

    def judge(self, work: Path, fault: str, ended: Ended | None) -> Trial:
        """`ended` is how the run with the fault ended; None if it was not to end by itself."""
        if ended and "Traceback" in ended.said:
            return Trial(fault=fault, verdict="traceback", detail=ended.said[-2000:])
        shown = self.products(work)
        if ended and ended.code == 0 and shown != self.golden:
            return Trial(fault=fault, verdict="said 0 and was wrong", detail=ended.said[-500:])
        if wrong := [name for name, digest in shown.items() if self.golden.get(name) != digest]:
            return Trial(fault=fault, verdict="wrong product visible", detail=str(wrong))
        self.remove_products(work)
        again = self.run(work)
        if again.code != 0:
            return Trial(fault=fault, verdict="stuck", detail=again.said[-500:])
        if self.products(work) != self.golden:
            return Trial(fault=fault, verdict="silently wrong", detail=again.said[-500:])
        if litter := list((work / ".cache/v1/staging").glob("*")):
            return Trial(fault=fault, verdict="litter", detail=str(litter))
        return Trial(fault=fault, verdict="ok")

    # -- faults -------------------------------------------------------------------------------------------------------

    def kill(self, count: int) -> Iterator[Trial]:
        """SIGKILL at random times; no step that had been published may run again."""
        for _ in range(count):
            with self.copy() as work:
                delay = self.random.uniform(0, self.seconds)
                process = self.start(work)
                try:
                    process.communicate(timeout=delay)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.communicate()
                finished = len(list(work.glob(".cache/v1/entry/*/*/record.json")))
                before = self.ran(work)
                trial = self.judge(work, f"kill after {delay:.4f} s", None)
                again = self.ran(work) - before
                if trial.verdict == "ok" and sum(again.values()) + finished > len(self.steps):
                    trial = Trial(fault=trial.fault, verdict="finished step lost", detail=f"{finished} {again}")
                yield trial

    def system_calls(self, calls: str = WRITING_CALLS) -> dict[str, int]:
        """How often one run makes each of these calls, its children included."""
        with self.copy() as work:
            log = work / "strace"
            self.run(work, before=["strace", "-f", "-qq", "-e", f"trace={_listed(calls)}", "-o", str(log)])
            made = re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.MULTILINE)
        return dict(Counter(made))

    def inject(self, fault: str, calls: str = WRITING_CALLS, every: int = 1, *, storm: bool = False) -> Iterator[Trial]:
        """At each system call: `fault` is "kill" or the name of an error; `storm` fails all later ones, too."""
        for call, count in self.system_calls(calls).items():
            for number in range(1, count + 1, every):
                how = "signal=SIGKILL" if fault == "kill" else f"error={fault}"
                injected = f"inject={call}:{how}:when={number}{'+' if storm else ''}"
                with self.copy() as work:
                    strace = ["strace", "-f", "-qq", "-e", f"trace={call}", "-e", injected, "-o", "/dev/null"]
                    ended = self.run(work, before=strace)
                    yield self.judge(work, f"{fault} at {call} {number}{' and later' if storm else ''}", ended)

    def damage(self, count: int) -> Iterator[Trial]:
        """Flip a bit, cut, empty, delete, swap or add a stored file; what is served afterwards must be right."""
        for _ in range(count):
            with self.copy(built=True) as work:
                fault = self._damage_one(work)
                self.remove_products(work)
                yield self.judge(work, fault, None)

    def concurrent(self, processes: int, rounds: int, *, kill_one: bool = False) -> Iterator[Trial]:
        """Several builds of one target at once: all end well, and each step runs once."""
        for _ in range(rounds):
            with self.copy() as work:
                started = [self.start(work) for _ in range(processes)]
                victim = self.random.randrange(processes) if kill_one else None
                if victim is not None:
                    time.sleep(self.random.uniform(0, self.seconds))
                    started[victim].kill()
                ends = [self.end(process) for process in started]
                bad = [end for at, end in enumerate(ends) if end.code != 0 and at != victim]
                fault = f"{processes} at once" + (" and one killed" if kill_one else "")
                if bad:
                    yield Trial(fault=fault, verdict="a build failed", detail=bad[0].said[-1000:])
                elif not kill_one and self.ran(work) != self.steps:
                    yield Trial(fault=fault, verdict="a step ran twice", detail=str(self.ran(work)))
                else:
                    yield self.judge(work, fault, None)

    def _damage_one(self, work: Path) -> str:
        files = [path for path in _files(work, self.target.stored) if not path.name.endswith("-shm")]
        path = self.random.choice(files)
        status, data = path.stat(), path.read_bytes()
        path.parent.chmod(0o755)
        path.chmod(0o644)
        kind = self.random.choice(("flip", "flip", "cut", "cut", "empty", "delete", "swap", "add"))
        if kind == "flip" and data:
            at = self.random.randrange(len(data))
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1 :])
        elif kind == "cut" and data:
            path.write_bytes(data[: self.random.randrange(len(data))])
        elif kind == "empty":
            path.write_bytes(b"")
        elif kind == "delete":
            path.unlink()
        elif kind == "swap":
            path.write_bytes(self.random.choice(files).read_bytes())
        elif kind == "add":
            path.with_name("planted").write_bytes(data)
        if path.exists():
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # rot leaves no time stamp
        return f"{kind} {path.relative_to(work)}"


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """How many trials ended how, and all that did not end well."""
    verdicts = Counter(trial.verdict for trial in trials)
    return {
        "trials": len(trials),
        "verdicts": dict(verdicts),
        "bad": [asdict(trial) for trial in trials if trial.verdict != "ok"],
    }


def has_strace() -> bool:
    """Whether system calls can be failed here."""
    if not shutil.which("strace"):
        return False
    probe = ["strace", "-e", "trace=write", "-o", "/dev/null", "true"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def command_of(words: str) -> tuple[str, ...]:
    return tuple(shlex.split(words))


def _files(work: Path, patterns: Sequence[str]) -> list[Path]:
    found = {path for pattern in patterns for path in work.glob(pattern) if path.is_file() and not path.is_symlink()}
    return sorted(found)


def _listed(calls: str) -> str:
    return ",".join(calls.split())
