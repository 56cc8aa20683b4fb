"""What is said on stdout and stderr, and as what."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def show(shown: str, told: str = "") -> None:
    sys.stderr.write(as_line(told))
    sys.stderr.flush()
    sys.stdout.write(as_line(shown))


def as_line(said: str) -> str:
    return f"{said}\n" if said else ""


def as_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, indent=1)
