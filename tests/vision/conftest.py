"""Small models that see, each written and built once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import small_models


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """folder_of("llava") -> its model folder."""
    made: dict[str, Path] = {}

    def once(family: str) -> Path:
        if family not in made:
            made[family] = small_models.write(tmp_path_factory.mktemp(family), family)
        return made[family]

    return once


@pytest.fixture(scope="session")
def built(folder_of: Callable[[str], Path], cache: Path) -> Callable[..., Any]:
    """built("llava", "specialization.batch_size=2") -> api.Built, made once."""
    from qeffbuild import api

    made: dict[tuple[str, ...], Any] = {}

    def once(family: str, *words: str) -> Any:
        key = (family, *words)
        if key not in made:
            shapes = ("specialization.img_size=[28,40]", "specialization.prefill_seq_len=8")
            spec = api.compose(["model=hf", f"model.path={folder_of(family)}", *shapes, *words])
            made[key] = api.build(api.admit(spec))
        return made[key]

    return once
