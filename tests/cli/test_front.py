"""What a command line costs, and how it ends when it cannot do what it was asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Run = Callable[..., "CompletedProcess[str]"]

HEAVY = ("hydra", "omegaconf", "yaml", "numpy", "onnx", "onnxruntime", "torch", "transformers", "rich")
LOOK = (
    "import sys; from qeffbuild.cli import main; code = main(sys.argv[1:]);"
    "sys.stdout.flush(); print(*sorted({!r} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
)


def heavy_modules(*words: str, cwd: Path) -> list[str]:
    """What a command line has loaded of what it should not need, in a process of its own."""
    root = Path(__file__).parent.parent.parent
    program = LOOK.format(set(HEAVY))
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize(
    "words", ["--version", "--help", "build --help", "biuld", "--jsno", "build --to moon", "cache du"]
)
def test_what_needs_no_configuration_loads_none(words: str, tmp_path: Path) -> None:
    assert heavy_modules(*words.split(), cwd=tmp_path) == []


@pytest.mark.slow
def test_a_build_or_plan_of_what_is_there_loads_nothing_heavy(qeffbuild: Run, tmp_path: Path) -> None:
    words = ["model=gpt2", "model.scale=tiny", "backend=onnxruntime", "device_group=one"]
    for _ in range(2):
        assert qeffbuild("build", *words, cwd=tmp_path).returncode == 0

    assert heavy_modules("build", *words, cwd=tmp_path) == []
    assert heavy_modules("plan", *words, cwd=tmp_path) == []


def test_an_error_is_two_lines_on_stderr_and_nothing_on_stdout(qeffbuild: Run) -> None:
    done = qeffbuild("plan", "specialization.ctx_len=-1")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error[spec.range]: ")
    assert len(done.stderr.splitlines()) <= 3


def test_with_json_an_error_is_a_document_on_stdout(qeffbuild: Run) -> None:
    done = qeffbuild("plan", "specialization.ctx_len=-1", "--json")

    said = json.loads(done.stdout)
    assert done.returncode == 2
    assert said["schema"] == 1
    assert said["error"]["kind"] == "spec.range"
    assert set(said["error"]) == {"kind", "message", "where", "hint"}


def test_debug_shows_where_an_error_came_from(qeffbuild: Run) -> None:
    assert "Traceback" in qeffbuild("plan", "specialization.ctx_len=-1", "--debug").stderr


def test_a_reader_that_leaves_early_ends_it_quietly(qeffbuild: Run, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    command = f"{sys.executable} -m qeffbuild completion bash; echo $?"
    closed = f"exec {sys.executable} -m qeffbuild --help >&-"
    environment = {**os.environ, "PYTHONPATH": str(root)}

    piped = subprocess.run(
        ["bash", "-c", f"{sys.executable} -c 'import time; time.sleep(1)' < <({command})"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    shut = subprocess.run(
        ["bash", "-c", closed], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert piped.stderr == ""
    assert "Traceback" not in shut.stderr


def test_ctrl_c_ends_it_with_one_line_and_130(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    program = (
        "import os, signal, qeffbuild.cli.front as front\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background is born deaf to it
        "front._answer = lambda words: os.kill(os.getpid(), signal.SIGINT) or __import__('time').sleep(5)\n"
        "raise SystemExit(front.main(['run']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )  # fmt: skip

    assert done.returncode == 130
    assert done.stderr.splitlines() == ["error[interrupted]: stopped; finished steps are kept"]


def test_a_bug_of_ours_is_one_line_and_a_report(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    program = (
        "import qeffbuild.cli.front as front\n"
        "def broken(words): raise ZeroDivisionError('a slip')\n"
        "front._answer = broken\n"
        "raise SystemExit(front.main(['run']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)

    (report,) = tmp_path.glob("qeffbuild-report-*.txt")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error[internal]: ZeroDivisionError: a slip"
    assert str(report) in done.stderr
    assert "a slip" in report.read_text()


@pytest.mark.slow
def test_sigterm_ends_a_build_like_ctrl_c(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "QEFFBUILD_CACHE": str(tmp_path / "cache")}
    words = ["build", "model=gpt2", "model.scale=tiny", "backend=onnxruntime"]
    build = subprocess.Popen(
        [sys.executable, "-m", "qeffbuild", *words], env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert build.stderr is not None
    build.stderr.readline()  # a step has begun

    build.send_signal(signal.SIGTERM)
    said = build.communicate(timeout=30)[1]

    assert build.returncode == 130
    assert "Traceback" not in said
