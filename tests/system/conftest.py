"""The command line for rows of bad input: in this process, or in one of its own where the row says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from refusals import Call, Row, Said

SECRET = {"SECRET": "s3cr3t", "HF_TOKEN": "hf_s3cr3t"}


@pytest.fixture
def call(qeffbuild, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """call(row, folder) runs the row's words in that folder, with secrets in the environment."""
    from qeffbuild.cli.front import main

    def run(row: Row, cwd: Path) -> Said:
        if row.alone:
            done = qeffbuild(*row.words, cwd=cwd, env=SECRET)
            return Said(done.returncode, done.stdout, done.stderr)
        for name, value in SECRET.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(cwd)
        capfd.readouterr()
        exit_code = main(list(row.words))
        return Said(exit_code, *capfd.readouterr())

    return run
