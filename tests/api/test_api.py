"""The public functions, on a tiny model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qeffbuild import api
from qeffbuild.errors import AbsentError, ModelError, PathError, RunError, SpecError, VerificationError
from qeffbuild.models import DEMO
from qeffbuild.spec.types import BuildSpec

Spec = Callable[..., BuildSpec]
TINY = ("model=gpt2", "model.scale=tiny", "backend=onnxruntime", "device_group=one")


@pytest.fixture(scope="module")
def tiny(spec_of: Spec) -> BuildSpec:
    return spec_of(*TINY, "decoding.max_new_tokens=4", "prompts=[Hi]", "runs=2")


@pytest.fixture(scope="module")
def built(tiny: BuildSpec) -> api.Built:
    return api.build(tiny)


def test_a_plan_of_a_model_that_is_not_there_is_refused(spec_of: Spec) -> None:
    with pytest.raises(ModelError) as refused:
        api.plan(spec_of("model=hf", "model.path=/nowhere/at/all"))

    assert refused.value.kind == "model.absent"


def test_frozen_refuses_a_revision_that_can_move(spec_of: Spec) -> None:
    with pytest.raises(ModelError) as refused:
        api.plan(spec_of("model=hf", "model.id=org/name", "model.revision=main"), frozen=True)

    assert refused.value.kind == "model.revision"


def test_a_commit_does_not_excuse_a_bad_name_of_a_hub_model(spec_of: Spec) -> None:
    with pytest.raises(ModelError) as refused:
        api.plan(spec_of("model=hf", "model.id=a--b/../c", f"model.revision={'0' * 40}"))

    assert refused.value.kind == "model.name"


def test_a_folder_without_a_tokenizer_is_refused_before_anything_is_imported(spec_of: Spec, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO / name, tmp_path / name)

    with pytest.raises(ModelError) as refused:
        api.plan(spec_of("model=hf", f"model.path={tmp_path}", "backend=onnxruntime"))

    assert refused.value.kind == "model.tokenizer"


def test_the_demo_brings_its_own_text_to_measure_on(spec_of: Spec) -> None:
    assert api.eval_file_of(spec_of("model=demo")) == DEMO / "heldout.txt"
    assert api.eval_file_of(spec_of("model=demo", f"eval_file={__file__}")) == Path(__file__)
    with pytest.raises(RunError):
        api.eval_file_of(spec_of("model=gpt2"))


def test_a_context_that_nobody_chose_ends_where_a_hub_models_positions_do(
    spec_of: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"max_position_embeddings": 77}')  # the rest was not fetched yet
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    words = ("model=hf", "model.id=org/name", f"model.revision={commit}")

    assert api.admit(spec_of(*words)).specialization.ctx_len == 77
    assert api.admit(spec_of(*words, "specialization.ctx_len=100")).specialization.ctx_len == 100  # refused when read


def test_results_go_outside_the_working_folder_only_when_that_is_said(
    spec_of: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_of(*TINY, "out=../elsewhere")

    with pytest.raises(PathError) as refused:
        api.build(spec)

    assert refused.value.kind == "path.outside"
    api.check_out(spec, allow_outside=True)


def test_an_unknown_step_is_refused_with_the_known_ones(tiny: BuildSpec) -> None:
    with pytest.raises(SpecError) as refused:
        api.why(tiny, "exprot")

    assert "export" in (refused.value.hint or "")


def test_two_specs_differ_in_the_words_of_their_user(spec_of: Spec) -> None:
    said = api.diff(spec_of(*TINY, "specialization.ctx_len=64"), spec_of(*TINY, "specialization.ctx_len=128"))

    changed = {step["name"]: step["because"] for step in said["steps"] if not step["same"]}
    assert not said["same"]
    assert changed["package"] == ["specialization.ctx_len 64 -> 128"]
    assert "export" not in changed


@pytest.mark.slow
def test_a_package_runs_and_is_measured(built: api.Built) -> None:
    said = api.run(built).as_json()
    figures = api.bench(built)

    assert [output["prompt"] for output in said["outputs"]] == ["Hi"]
    assert len(said["outputs"][0]["token_ids"]) <= 4
    assert figures["e2e_s"]["runs"] == 2


@pytest.mark.slow
def test_a_text_is_scored_as_pytorch_scores_it(built: api.Built, spec_of: Spec, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("In the beginning was the Word, and the Word was with God. " * 4)
    spec = spec_of(*TINY, f"eval_file={tmp_path / 'text'}")

    said = api.evaluate(api.build(spec))

    assert said["perplexity"] == pytest.approx(said["reference_perplexity"], rel=1e-3)
    assert said["token_agreement"] > 0.98


@pytest.mark.slow
def test_a_copy_of_a_package_verifies_until_a_byte_changes(
    built: api.Built, spec_of: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_of(*TINY, "decoding.max_new_tokens=4", "prompts=[Hi]", "out=copy")

    copy = api.build(spec).package
    again = api.build(spec).package

    assert copy == again == tmp_path / "copy"
    assert api.verify(copy)["files"] > 3
    assert api.diff(copy, built.package)["same"]
    data = copy / "decoder.data"
    data.chmod(0o644)
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    with pytest.raises(VerificationError):
        api.verify(copy)


@pytest.mark.slow
def test_files_that_are_not_ours_are_not_replaced(
    built: api.Built, spec_of: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")

    with pytest.raises(PathError) as refused:
        api.build(spec_of(*TINY, "out=thesis"))

    assert refused.value.kind == "path.exists"
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"


@pytest.mark.slow
def test_a_step_that_gives_the_same_bytes_twice_is_said_to(built: api.Built, tiny: BuildSpec) -> None:
    said = api.check(tiny, "lower")

    assert (said["same"], said["different"]) == (True, [])


@pytest.mark.slow
def test_the_cache_lists_measures_and_verifies_what_it_holds(built: api.Built, tiny: BuildSpec) -> None:
    store = api.open_store(tiny)

    steps = {entry["step"] for entry in api.cache_ls(store)["entries"]}

    assert {"fetch", "check", "export", "lower", "package"} <= steps
    assert api.cache_du(store)["bytes"] > 0
    assert api.cache_verify(store)["damaged"] == []
    assert api.cache_gc(store, max_size=0, older_s=None, keep_roots=False, dry_run=True)["dry_run"]


@pytest.mark.slow
def test_the_vendor_s_inputs_come_with_weights_and_commands(
    spec_of: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "documents", ignore_errors=True)

    said = api.emit(spec_of("model=gpt2", "model.scale=tiny", "backend=qaic", "out=documents"))

    assert said["folder"] == str(tmp_path / "documents")
    assert {"graph.onnx", "io.json", "specializations.json", "compile.sh", "commands.json"} <= set(said["files"])
    assert any(name.endswith(".safetensors") for name in said["files"])
    assert said["commands"][0][0].endswith("qaic-compile")


def test_a_model_that_changed_is_read_again(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    spec = api.compose(["model=hf", f"model.path={folder}", "device_group=one"], conf_dirs=())
    api.admit(spec)
    (folder / "config.json").write_text("{")

    with pytest.raises(ModelError, match="no valid JSON"):
        api.admit(spec)


def test_a_sweep_that_no_compiler_can_finish_says_so_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEFFBUILD_QAIC_COMPILE", str(tmp_path / "gone"))
    root = f"cache.root={tmp_path / 'cache'}"
    specs = [api.compose(["backend=qaic", f"backend.num_cores={cores}", root], conf_dirs=()) for cores in (8, 16)]

    with pytest.raises(AbsentError):
        api.build_together(specs)

    assert list(api.open_store(specs[0]).places()) == []
