"""The same model gives the same graphs: on another path, in another process, under another hash seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("every_kind.py")


@pytest.mark.long
def test_every_kind_of_export_is_the_same_bytes_elsewhere(tmp_path):
    said = []
    for seed, place in (("1", "here"), ("77", "some/where/else")):
        root = tmp_path / place
        root.mkdir(parents=True)
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(SCRIPT.parents[2])}
        command = [sys.executable, SCRIPT, str(root)]
        done = subprocess.run(command, env=environment, check=True, cwd=root, capture_output=True, text=True)
        said.append(json.loads(done.stdout.splitlines()[-1]))

    assert said[0] == said[1]
    assert [sum(name.endswith(".onnx") for name in files) for files in said[0].values()] == [1, 2, 1, 2]
