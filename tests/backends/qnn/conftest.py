"""Lets the tests of this folder import the small model that backends share."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "qaic"))
sys.path.insert(0, str(Path(__file__).parent))
