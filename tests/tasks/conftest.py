"""Small random models of every task, built once: the folder of the model and its package."""

from __future__ import annotations

import contextlib
import io
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from qeffbuild import api


@dataclass(frozen=True)
class Small:
    model: Path
    package: Path


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Small]:
    """small("t5", "specialization.batch_size=2"): each build once for all tests."""
    root = tmp_path_factory.mktemp("tasks")
    made: dict[tuple[str, ...], Small] = {}

    def build(model_type: str, *words: str, task: str = "auto") -> Small:
        key = (model_type, task, *words)
        if key not in made:
            kind = (f"model.model_type={model_type}", f"model.task={task}")
            common = (f"cache.root={root}", "model=hf", *kind, "model.scale=tiny")
            with contextlib.redirect_stderr(io.StringIO()):
                built = api.build(api.compose([*common, *words], conf_dirs=()))
            made[key] = Small(built.folder_of("fetch") / "model", built.package)
        return made[key]

    return build


@pytest.fixture(scope="session")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a rising tone and noise."""
    return tone(tmp_path_factory.mktemp("sound") / "tone.wav", 2)


@pytest.fixture(scope="session")
def shorter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone(tmp_path_factory.mktemp("sound") / "shorter.wav", 1.25)


def tone(path: Path, seconds: float) -> Path:
    time = np.arange(int(seconds * 16000)) / 16000
    noise = np.random.default_rng(0).standard_normal(time.size)
    sound = 0.4 * np.sin(2 * np.pi * 440 * time * (1 + time / 4)) + 0.05 * noise
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return path
