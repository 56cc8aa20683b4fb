from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from qeffbuild.store import Entry, Record, Store


def digest(word: str) -> str:
    return sha256(word.encode()).hexdigest()


@pytest.fixture
def said() -> list[str]:
    """What the store has said."""
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]):
    store = Store(tmp_path / "cache", say=said.append)
    yield store
    store.close()


@pytest.fixture
def put() -> Callable[..., Entry]:
    def put(store: Store, word: str = "export", *, name: str = "export", inputs=(), **files: str) -> Entry:
        """Publish an entry under the digest of a word."""
        with store.staging() as staging:
            for file, text in (files or {"graph.onnx": word}).items():
                target = staging.out / file.replace("__", "/")
                target.parent.mkdir(exist_ok=True)
                target.write_text(text)
            record = Record(
                key=digest(word),
                shallow=digest("shallow " + word),
                name=name,
                preimage={"params": {"word": word}},
                files={},
                inputs=tuple(map(digest, inputs)),
            )
            return store.publish(staging, record)

    return put
