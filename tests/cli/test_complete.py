"""What TAB offers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from qeffbuild.cli.complete import SCRIPTS, candidates

Run = Callable[..., "CompletedProcess[str]"]
ROOT = Path(__file__).parent.parent.parent
INDEX = {
    "verbs": {"build": [], "bench": [], "cache": ["ls", "du"]},
    "flags": {"--json": [], "--to": ["export", "package"]},
    "keys": {"model": ["demo", "gpt2"], "model.scale": ["full", "tiny"], "model.path": []},
}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["b"], ["build", "bench"]),
        (["build", "b"], ["bench"]),
        (["m"], ["model.", "model="]),
        (["model."], ["model.scale=", "model.path="]),
        (["model=g"], ["model=gpt2"]),
        (["model=demo,g"], ["model=demo,gpt2"]),
        (["model.scale="], ["model.scale=full", "model.scale=tiny"]),
        (["--"], ["--json", "--to"]),
        (["build", "--to", "e"], ["export"]),
        (["cache", ""], ["ls", "du"]),
        (["nothing=like"], []),
    ],
)
def test_each_kind_of_word_goes_on_in_its_own_way(words: list[str], offered: list[str]) -> None:
    assert candidates(words, INDEX) == offered


def test_the_real_choices_and_keys_are_offered(qeffbuild: Run) -> None:
    assert "model=gpt2" in qeffbuild("--complete", "build", "model=").stdout.split()
    assert "specialization.ctx_len=" in qeffbuild("--complete", "build", "specialization.").stdout.split()


def test_bash_completes_what_stands_before_the_cursor(tmp_path: Path) -> None:
    command = tmp_path / "qeffbuild"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m qeffbuild "$@"\n')
    command.chmod(0o755)
    ask = """
        eval "$(qeffbuild completion bash)"
        COMP_LINE="qeffbuild build model=gp" COMP_POINT=${#COMP_LINE}
        _qeffbuild
        printf '%s|' "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    done = subprocess.run(["bash", "-c", ask], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split("|")[:-1] == ["gpt2 ", "gpt_bigcode ", "gpt_oss ", "gptj "]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_every_shell_has_a_script_that_asks_us(shell: str, qeffbuild: Run) -> None:
    assert "qeffbuild --complete" in qeffbuild("completion", shell).stdout
