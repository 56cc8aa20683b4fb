"""A kept answer is given only as long as all that it depended on is as it was."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from qeffbuild import paths
from qeffbuild.cli import places
from qeffbuild.cli.composed import Kept

Run = Callable[..., "CompletedProcess[str]"]
pytestmark = pytest.mark.slow

WORDS = ("build", "model=gpt2", "model.scale=tiny", "backend=onnxruntime", "device_group=one")


@pytest.fixture
def recalled(qeffbuild: Run, tmp_path: Path) -> Callable[..., bool]:
    """recalled("model=gpt2") -> whether that build is answered without looking at a specification."""
    for _ in range(2):
        assert qeffbuild(*WORDS, cwd=tmp_path).returncode == 0

    def ask(*words: str) -> bool:
        done = qeffbuild(*WORDS, *words, cwd=tmp_path, env={"PYTHONVERBOSE": "1"})
        assert done.returncode == 0, done.stderr[-2000:]
        return "qeffbuild.spec.types" not in done.stderr

    return ask


def test_the_same_words_again_are_answered_from_what_was_kept(recalled: Callable[..., bool]) -> None:
    assert recalled()


def test_a_plan_with_nothing_to_do_is_answered_so_too(
    recalled: Callable[..., bool], qeffbuild: Run, tmp_path: Path
) -> None:
    words = ("plan", *WORDS[1:])
    first = qeffbuild(*words, cwd=tmp_path)

    again = qeffbuild(*words, cwd=tmp_path, env={"PYTHONVERBOSE": "1"})

    assert "nothing to do" in first.stdout
    assert again.stdout == first.stdout
    assert "qeffbuild.spec.types" not in again.stderr


def test_other_words_are_not(recalled: Callable[..., bool]) -> None:
    assert not recalled("specialization.ctx_len=64")


def test_a_flipped_bit_in_the_package_is_found(recalled: Callable[..., bool], qeffbuild: Run, tmp_path: Path) -> None:
    graph = Path(qeffbuild(*WORDS, cwd=tmp_path).stdout.strip()) / "decoder.onnx"
    good, seen = graph.read_bytes(), graph.stat()
    graph.chmod(0o644)
    graph.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    os.utime(graph, ns=(seen.st_atime_ns, seen.st_mtime_ns))

    assert not recalled()
    assert graph.read_bytes() == good


def test_a_user_s_own_choices_are_found(recalled: Callable[..., bool], tmp_path: Path) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    shutil.copy(paths.resource_dir("conf") / "model" / "gpt2.yaml", tmp_path / "conf" / "model" / "gpt2.yaml")

    assert not recalled()


def test_a_cache_that_others_may_write_is_not_trusted(
    recalled: Callable[..., bool], qeffbuild: Run, cache: Path, tmp_path: Path
) -> None:
    (cache / "v1").chmod(0o777)
    try:
        done = qeffbuild(*WORDS, cwd=tmp_path)
    finally:
        (cache / "v1").chmod(0o700)

    assert done.returncode == 5
    assert "error[cache.unsafe]" in done.stderr


def test_what_is_kept_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v1").mkdir()
    kept = Kept(str(tmp_path))
    monkeypatch.setattr(time, "time_ns", lambda: kept._newest + 10**11)
    kept.keep("job", ["a=1"], {"values": {"a": 1}})
    (file,) = (tmp_path / "v1" / "compose").iterdir()
    whole = file.read_bytes()

    assert kept.load("job", ["a=1"]) == {"values": {"a": 1}}
    assert kept.load("job", ["a=2"]) is None
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert kept.load("job", ["a=1"]) is None
        file.write_bytes(whole[:at])
        assert kept.load("job", ["a=1"]) is None


def test_variables_that_composition_read_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v1").mkdir()
    kept = Kept(str(tmp_path))
    monkeypatch.setattr(time, "time_ns", lambda: kept._newest + 10**11)
    monkeypatch.setenv("SOME_FOLDER", "here")
    kept.keep("job", [], {"environment": {"SOME_FOLDER": "here"}})

    found = kept.load("job", [])
    monkeypatch.setenv("SOME_FOLDER", "there")

    assert found == {"environment": {"SOME_FOLDER": "here"}}
    assert kept.load("job", []) is None


def test_where_there_is_no_store_nothing_is_kept(tmp_path: Path) -> None:
    Kept(str(tmp_path / "cache")).keep("job", [], {})

    assert not (tmp_path / "cache").exists()


def test_the_front_looks_for_folders_where_everybody_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "home" / "qeffbuild" / "conf").mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    settings: list[dict[str, str]] = [
        {"QEFFBUILD_CACHE": "/a"}, {"QEFF_HOME": "/b"}, {"XDG_CACHE_HOME": "/c"}, {"HOME": "/d"}
    ]  # fmt: skip

    folders = [str(folder) for folder in (*paths.user_conf_dirs(Path.cwd()), paths.resource_dir("conf"))]

    assert places.conf_folders() == folders
    for setting in settings:
        for name in ("QEFFBUILD_CACHE", "QEFF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in setting.items():
            monkeypatch.setenv(name, value)
        assert places.cache_root([]) == str(paths.cache_root())
    assert places.cache_root(["cache.root=/x"]) == "/x"
