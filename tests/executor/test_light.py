from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
sys.path.insert(0, {benchmarks!r})
from pathlib import Path
import noop
root = Path({root!r})
noop.no_op(root, 1)
heavy = {{"sqlite3", "subprocess", "threading", "socket", "tempfile", "shutil", "torch", "onnx", "yaml", "hydra"}}
print(sorted(heavy & sys.modules.keys()))
"""


def test_a_build_with_nothing_to_do_loads_neither_processes_nor_a_database(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    prepare = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import pathlib, noop; "
        f"noop.prepare(pathlib.Path({str(tmp_path / 'cache')!r}), 1)"
    )
    subprocess.run([sys.executable, "-c", prepare], check=True, env=environment)
    program = PROGRAM.format(benchmarks=str(ROOT / "benchmarks"), root=str(tmp_path / "cache"))

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)

    assert ended.stdout == "[]\n", ended.stderr
