"""Sweeps: through Hydra's sweepers and launchers, planned as one, no failure hiding another variant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from qeffbuild.cli.sweep import Number, Variant
from qeffbuild.errors import SpecError

Run = Callable[..., "CompletedProcess[str]"]
TINY = ("model=gpt2", "model.scale=tiny", "backend=onnxruntime", "device_group=one")


def variants(done: CompletedProcess[str]) -> list[dict[str, Any]]:
    return json.loads(done.stdout)["variants"]


def swept(said: list[dict[str, Any]]) -> list[list[str]]:
    return [[word for word in variant["overrides"] if word not in TINY] for variant in said]


def test_a_sweep_has_a_variant_for_each_combination(qeffbuild: Run, tmp_path: Path) -> None:
    words = ("specialization.ctx_len=64,128", "quantization=none,int8")

    done = qeffbuild("plan", *TINY, "-m", *words, "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert swept(variants(done)) == [
        [f"specialization.ctx_len={length}", f"quantization={method}"]
        for length in (64, 128)
        for method in ("none", "int8")
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "choice", [("hydra/launcher=basic",), ("hydra/sweeper=basic",), ("hydra/sweeper=basic", "hydra/launcher=basic")]
)
def test_hydra_s_own_sweeper_and_launcher_give_the_same(
    choice: tuple[str, ...], qeffbuild: Run, tmp_path: Path
) -> None:
    words = ("plan", *TINY, "-m", "specialization.ctx_len=range(64,67)", "--json")

    ours = qeffbuild(*words, cwd=tmp_path)
    theirs = qeffbuild(*words, *choice, cwd=tmp_path)

    assert theirs.returncode == 0, theirs.stderr
    assert json.loads(theirs.stdout) == json.loads(ours.stdout)


def test_a_bad_variant_is_told_and_the_others_go_on(qeffbuild: Run, tmp_path: Path) -> None:
    done = qeffbuild("plan", *TINY, "-m", "specialization.ctx_len=64,-1", "model.name=a,b", "--json", cwd=tmp_path)

    assert done.returncode == 2
    assert [variant["exit_code"] for variant in variants(done)] == [0, 0, 2, 2]
    assert variants(done)[2]["error"]["kind"] == "spec.range"
    assert "variant 3: error[spec.range]" in done.stderr


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("specialization.ctx_len=1,2,",), "override.syntax"),
        (("specialization.ctx_len=range(1,5000)",), "sweep.size"),
        (("specialization.ctx_len=interval(1,5)",), "sweep.interval"),
        (("specialization.ctx_len=1,2", "hydra.sweep.dir=../x"), "path.outside"),
        (("specialization.ctx_len=1,2", "hydra/launcher=nosuch"), "override.hydra"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(
    words: tuple[str, ...], kind: str, qeffbuild: Run, tmp_path: Path
) -> None:
    done = qeffbuild("build", *TINY, "-m", *words, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith(f"error[{kind}]: ")
    assert len(done.stderr.splitlines()) <= 3


def test_a_limit_may_be_raised_by_saying_so(qeffbuild: Run, tmp_path: Path) -> None:
    words = ("plan", *TINY, "-m", "specialization.ctx_len=64,65,66", "hydra.sweeper.limit=2")

    assert "error[sweep.size]: 3 variants, more than 2" in qeffbuild(*words, cwd=tmp_path).stderr


def test_the_number_of_a_job_carries_its_variant_between_processes() -> None:
    import pickle

    variant = Variant(("a=1",), error=SpecError("spec.range", "too much"), number=3.5)

    number = pickle.loads(pickle.dumps(Number(variant, {"key": {"name": "fetch"}})))

    assert number == 3.5
    assert number.variant.as_json() == variant.as_json()
    assert number.steps == {"key": {"name": "fetch"}}
