from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lab import Lab
from small import small_target


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The small pipeline, built once."""
    folder = tmp_path_factory.mktemp("faults")
    return Lab(small_target(folder), folder, seed=20)
