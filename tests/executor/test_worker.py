from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qeffbuild.executor import process
from qeffbuild.executor.process import Worker, descendants
from qeffbuild.executor.worker import disk_trouble

LIMITS = {"timeout_s": 60.0, "memory_mb": None, "progress": lambda fraction, what: None, "check": lambda: None}


def is_alive(pid: int) -> bool:
    """A zombie is dead, whoever has to wait for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(is_true, seconds: float = 20.0) -> None:
    """A deadline against a test that hangs; nothing is measured."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_steps_share_one_process_and_each_has_its_own_folder(workshop):
    do = ("work.out.joinpath('cwd').write_text(os.getcwd())",)
    outcomes = workshop.build(workshop.step("one", do=do), workshop.step("two", "one", do=do))

    pids = {line.split()[1] for line in workshop.lines()}
    folders = {(outcome.out / "cwd").read_text() for outcome in outcomes.values()}
    assert len(pids) == 1
    assert pids != {str(os.getpid())}
    assert len(folders) == 2
    assert all(folder.startswith(str(workshop.store.home / "staging")) for folder in folders)


def test_an_isolated_step_has_a_process_of_its_own(workshop):
    workshop.build(workshop.step("one"), workshop.step("two", "one", isolated=True), workshop.step("three", "two"))

    assert len({line.split()[1] for line in workshop.lines()}) == 3


@pytest.mark.parametrize(
    ("do", "kind", "message"),
    [
        ("os._exit(3)", "step.died", "crash: its process exited with 3"),
        ("os.abort()", "step.died", "crash: its process died of SIGABRT"),
        ("os.kill(os.getpid(), 9)", "step.killed", "crash: its process was killed"),
        ("sys.exit(0)", "step.failed", "crash: SystemExit: 0"),
        ("raise MemoryError", "limit.memory", "crash: out of memory"),
    ],
)
def test_a_step_that_takes_its_process_along_fails_and_the_next_gets_a_new_one(workshop, results, do, kind, message):
    outcomes = workshop.build(
        workshop.step("crash", do=(do,)), workshop.step("good"), goals=("crash", "good"), keep_going=True
    )

    assert (outcomes["crash"].error.kind, outcomes["crash"].error.message) == (kind, message)
    assert results(outcomes) == {"crash": "failed", "good": "built"}


def test_a_step_that_takes_too_long_is_ended_with_all_that_it_started(workshop, monkeypatch):
    monkeypatch.setattr(process, "WATCH_S", 0.02)
    pids = workshop.folder / "pids"
    do = (f"pathlib.Path({str(pids)!r}).write_text(str(subprocess.Popen(['sleep', '60']).pid)); time.sleep(60)",)

    error = workshop.build(workshop.step("slow", do=do), timeout_s=1.0)["slow"].error

    assert (error.kind, error.exit_code) == ("limit.time", 7)
    assert not is_alive(int(pids.read_text()))


def test_a_step_that_takes_too_much_memory_is_ended(workshop, monkeypatch):
    monkeypatch.setattr(process, "WATCH_S", 0.02)

    error = workshop.build(workshop.step("big", do=("hold = b'x' * (200 << 20); time.sleep(60)",)), memory_mb=100)[
        "big"
    ].error

    assert (error.kind, error.exit_code) == ("limit.memory", 7)


def test_peak_memory_is_that_of_the_step_and_not_of_the_one_before(workshop):
    outcomes = workshop.build(
        workshop.step("big", do=("hold = b'x' * (200 << 20); del hold",)), workshop.step("small", "big")
    )

    assert outcomes["big"].peak_rss_mb > 200
    assert outcomes["small"].peak_rss_mb < 150


def test_what_a_step_leaves_running_is_ended_before_its_output_is_kept(workshop):
    pids = workshop.folder / "pids"
    do = (f"pathlib.Path({str(pids)!r}).write_text(str(subprocess.Popen(['sleep', '60']).pid))",)

    outcome = workshop.build(workshop.step("untidy", do=do))["untidy"]

    assert outcome.result == "built"
    assert not is_alive(int(pids.read_text()))


def test_output_of_an_action_and_its_children_is_in_the_log(workshop):
    do = ("print('mine'); os.system('echo theirs'); print('bad', file=sys.stderr)",)

    log = workshop.build(workshop.step("talk", do=do))["talk"].log

    assert sorted(log.read_text().split()) == ["bad", "mine", "theirs"]


BUILD = """
import sys
sys.path[:] = {path!r}
from pathlib import Path
from qeffbuild.errors import Interrupted
from qeffbuild.executor import execute
from qeffbuild.plan.keys import deep_keys
from qeffbuild.plan.types import Plan, Step
from qeffbuild.store import Store

class World:
    leaf = code = tool = env = lambda self, asked: "0"

do = "child = subprocess.Popen(['sleep', '60']).pid; "
do += "pathlib.Path({pids!r}).write_text(f'{{os.getpid()}} {{child}}'); time.sleep(60)"
step = Step(name="slow", action="small_action", params={{"trace": {trace!r}, "do": [do]}})
plan = Plan((step,), ("slow",))
store = Store(Path({root!r}))
try:
    execute(plan, deep_keys(plan, World()), store, world=World())
except Interrupted as stopped:
    print(stopped.kind, stopped.exit_code, len(list((store.home / "staging").iterdir())), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_when_a_build_ends_so_does_all_that_it_started(workshop, number):
    pids = workshop.folder / "pids"
    program = BUILD.format(
        path=sys.path, pids=str(pids), trace=str(workshop.trace), root=str(workshop.folder / "cache")
    )
    build = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)

    build.send_signal(number)
    said, _ = build.communicate()

    assert said == ("" if number == signal.SIGKILL else "interrupted 130 0\n")
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not is_alive(pid), 2.0)


def test_children_of_children_are_found():
    child = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"])
    wait_until(lambda: len(descendants(os.getpid())) >= 3)

    found = descendants(child.pid)
    child.kill()
    child.wait()
    for pid in found:
        os.kill(pid, signal.SIGKILL)

    assert len(found) == 2


def test_a_worker_that_was_never_started_can_be_stopped():
    worker = Worker()

    worker.stop()

    assert not worker.is_running


@pytest.mark.parametrize(
    ("problem", "found"),
    [
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "quota"), errno.EDQUOT),
        (RuntimeError("no tensor is called space left"), None),
        (OSError(errno.ENOENT, "gone"), None),
    ],
)
def test_a_full_disk_is_known_by_its_words_too(problem, found):
    wrapped = ValueError("it was not saved")
    wrapped.__cause__ = problem

    numbers = [trouble and trouble.errno for trouble in map(disk_trouble, (problem, wrapped))]

    assert numbers == [found, found]
