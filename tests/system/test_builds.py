"""Builds as a user of make expects them: nothing twice, everything explained, one export for a whole sweep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Run = Callable[..., "CompletedProcess[str]"]

TINY = ("model=gpt2", "model.scale=tiny", "backend=onnxruntime", "device_group=one")


def ran(done: CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def results(said: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["result"] for step in said["steps"]}


@pytest.fixture
def fresh(tmp_path: Path) -> dict[str, str]:
    """A store that nothing was built in."""
    return {"QEFFBUILD_CACHE": str(tmp_path / "cache")}


@pytest.mark.slow
def test_what_is_up_to_date_does_not_run_again(qeffbuild: Run, fresh: dict[str, str], tmp_path: Path) -> None:
    first = ran(qeffbuild("build", *TINY, "--json", env=fresh))
    second = ran(qeffbuild("build", *TINY, "--json", env=fresh, cwd=tmp_path))

    assert set(results(first).values()) == {"built"}
    assert set(results(second).values()) == {"hit"}
    assert second["package"] == first["package"]


@pytest.mark.slow
def test_a_sweep_runs_each_unique_step_once(qeffbuild: Run, fresh: dict[str, str]) -> None:
    sweep = ("-m", "specialization.ctx_len=64,128", "quantization=none,int8")

    said = ran(qeffbuild("build", *TINY, *sweep, "--json", env=fresh))

    assert len(said["variants"]) == 4
    assert {variant["exit_code"] for variant in said["variants"]} == {0}
    assert len({variant["package"] for variant in said["variants"]}) == 4
    names = [step["name"] for step in said["steps"]]
    assert names.count("fetch") == names.count("export") == names.count("quantize") == 1
    assert (names.count("lower"), names.count("package")) == (2, 4)


@pytest.mark.slow
def test_a_failing_variant_does_not_hide_the_others(qeffbuild: Run, fresh: dict[str, str]) -> None:
    done = qeffbuild("build", *TINY, "-m", "specialization.ctx_len=64,1000000", "--json", env=fresh)

    said = json.loads(done.stdout)
    assert done.returncode == 2
    assert [variant["exit_code"] for variant in said["variants"]] == [0, 2]
    assert Path(said["variants"][0]["package"], "manifest.json").exists()


@pytest.mark.slow
def test_a_damaged_package_is_built_again_and_said(qeffbuild: Run, fresh: dict[str, str]) -> None:
    package = Path(ran(qeffbuild("build", *TINY, "--json", env=fresh))["package"])
    graph = package / "decoder.onnx"
    good = graph.read_bytes()
    graph.chmod(0o644)
    graph.write_bytes(bytes([good[0] ^ 1]) + good[1:])

    done = qeffbuild("build", *TINY, "--json", env=fresh)

    assert results(ran(done))["package"] in {"built", "cutoff"}
    assert "damaged" in done.stderr
    assert graph.read_bytes() == good


@pytest.mark.slow
def test_a_moved_cache_still_hits(qeffbuild: Run, fresh: dict[str, str], tmp_path: Path) -> None:
    ran(qeffbuild("build", *TINY, "--json", env=fresh))
    Path(fresh["QEFFBUILD_CACHE"]).rename(tmp_path / "elsewhere")

    said = ran(qeffbuild("build", *TINY, "--json", env={"QEFFBUILD_CACHE": str(tmp_path / "elsewhere")}))

    assert set(results(said).values()) == {"hit"}


@pytest.mark.slow
def test_int8_weights_cost_little_perplexity(qeffbuild: Run) -> None:
    plain = ran(qeffbuild("eval", "eval_tokens=8192", "--json"))
    small = ran(qeffbuild("eval", "eval_tokens=8192", "quantization=int8", "--json"))

    assert plain["perplexity"] == pytest.approx(plain["reference_perplexity"], rel=1e-4)
    assert small["perplexity"] == pytest.approx(plain["perplexity"], rel=0.02)
    assert plain["token_agreement"] == 1.0


@pytest.mark.slow
def test_the_notebook_recipe_is_emitted_on_any_machine(qeffbuild: Run, fresh: dict[str, str], tmp_path: Path) -> None:
    words = ("emit", "recipe=gpt2_notebook", "model.scale=tiny", "out=documents")

    said = ran(qeffbuild(*words, "--json", env=fresh, cwd=tmp_path))

    folder = Path(said["folder"])
    assert folder == tmp_path / "documents"
    assert {"specializations.json", "custom_io.yaml", "graph.onnx", "io.json", "compile.sh", "commands.json"} <= set(
        said["files"]
    )
    assert "-aic-num-cores=16" in said["commands"][0]


@pytest.mark.slow
def test_without_the_compiler_a_build_says_so_with_exit_code_3(qeffbuild: Run, fresh: dict[str, str]) -> None:
    done = qeffbuild("build", "recipe=gpt2_notebook", "model.scale=tiny", env=fresh)

    assert done.returncode == 3
    assert "error[backend.absent]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_copied_package_that_lost_a_file_is_copied_again(
    qeffbuild: Run, fresh: dict[str, str], tmp_path: Path
) -> None:
    words = ("build", *TINY, "out=package")
    qeffbuild(*words, env=fresh, cwd=tmp_path)
    whole = sorted(path.name for path in (tmp_path / "package").rglob("*"))
    (tmp_path / "package" / "decoder.data").unlink()

    done = qeffbuild(*words, env=fresh, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "package").rglob("*")) == whole
