"""A collector that takes all it can, over and over, beside builds that share their steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qeffbuild.store import Store, collect

BUILDER = Path(__file__).with_name("live_builder.py")
ROOT = Path(__file__).resolve().parents[2]


def test_live_builders_lose_nothing_to_a_collector(tmp_path: Path) -> None:
    cache, rounds = tmp_path / "cache", 5
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    builders = [
        subprocess.Popen(
            [sys.executable, BUILDER, cache, str(rounds), str(seed)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for seed in range(3)
    ]

    store, removed = Store(cache), 0
    while any(builder.poll() is None for builder in builders):
        removed += len(collect.gc(store, max_size=0).removed)
    said = [builder.communicate()[1] for builder in builders]

    assert [(builder.returncode, text) for builder, text in zip(builders, said, strict=True)] == [(0, "")] * 3
    assert removed > 0
    assert collect.verify_all(store) == []
    assert not list((cache / "v1" / "staging").iterdir())
    collect.gc(store, max_size=0)
    assert collect.ls(store) == []
