from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from qeffbuild.store import lock


def test_a_second_holder_waits_and_hears_who_builds(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WAIT_MESSAGE_AFTER_S", 0.0)
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with lock.locked(tmp_path / "key", "export", say=said.append):
            order.append("second")

    with lock.locked(tmp_path / "key", "export"):
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.01)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]
    assert said == [f"waiting for export, which process {os.getpid()} on {os.uname().nodename} is building"]


def test_who_waits_can_give_up(tmp_path):
    def check() -> None:
        raise InterruptedError

    first = lock.locked(tmp_path / "key", "export")
    second = lock.locked(tmp_path / "key", "export", check=check)
    with first, pytest.raises(InterruptedError), second:
        pytest.fail("two holders")


def test_a_killed_holder_leaves_no_lock(tmp_path):
    program = (
        "import sys, pathlib, time; from qeffbuild.store.lock import try_lock; "
        "try_lock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    holder = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "key"], stdout=subprocess.PIPE, env=environment
    )
    assert holder.stdout.readline() == b"held\n"
    assert lock.is_held(tmp_path / "key")

    holder.kill()
    holder.communicate()

    assert not lock.is_held(tmp_path / "key")
    with lock.locked(tmp_path / "key", "export"):
        pass


def test_a_lock_file_that_was_swept_meanwhile_is_made_anew(tmp_path, monkeypatch):
    flock = lock.fcntl.flock
    swept = []

    def sweep_first(descriptor, operation):
        if not swept:
            swept.append((tmp_path / "key").unlink())
        flock(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", sweep_first)
    descriptor = lock.try_lock(tmp_path / "key")

    assert os.fstat(descriptor).st_ino == (tmp_path / "key").stat().st_ino
    os.close(descriptor)


def test_a_lock_is_no_way_to_another_file(tmp_path):
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError), lock.locked(tmp_path / "key", "export"):
        pytest.fail("followed")
