"""A refusal: what `words` and configuration files meet at the door, in the form that every error has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from qeffbuild.errors import QeffBuildError
from qeffbuild.spec.compose import compose
from qeffbuild.spec.load import from_config
from qeffbuild.spec.types import BuildSpec

Refusal = Callable[..., QeffBuildError]


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """refusal("runs=0", files={"model/x.yaml": "..."}) -> the error, seen to have at most three lines."""

    def refused(*words: str, files: Mapping[str, str | bytes] = {}) -> QeffBuildError:
        conf = folder_of(tmp_path / "conf", files)
        with pytest.raises(QeffBuildError) as caught:
            _load(words, [conf] if files else [])
        error = caught.value
        assert len(str(error).splitlines()) <= 3
        assert re.match(r"error\[[a-z]+\.[a-z]+\]: .+", str(error))
        return error

    return refused


def _load(words: Sequence[str], conf_dirs: Sequence[Path]) -> BuildSpec:
    composed = compose(words, conf_dirs=conf_dirs)
    return from_config(composed.values, origins=composed.origins)


def folder_of(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """A configuration folder that holds `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder
