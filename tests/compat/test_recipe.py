"""A command line or a qconfig.json becomes a recipe that composes to what was asked; what is left out is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qeffbuild.api import compose
from qeffbuild.compat.recipe import import_words
from qeffbuild.errors import SpecError
from qeffbuild.spec.types import BuildSpec

LINE = ["python", "-m", "QEfficient.cloud.infer", "--model_name", "org/name", "--num_cores", "14"]


def composed(text: str, conf: Path) -> BuildSpec:
    (conf / "recipe").mkdir(parents=True)
    (conf / "recipe" / "mine.yaml").write_text(text)
    return compose(["recipe=mine"], conf_dirs=[conf])


@pytest.mark.parametrize(
    "words",
    [
        ["--ctx_len", "256", "--full_batch_size", "4", "--device_group", "[0,1]", "--mxint8", "--allow-mxint8-mdp-io"],
        ["--prompt", 'one "two"|${model.path}|\\', "--generation_len", "9", "--stats-level", "70"],
    ],
)
def test_recipe_and_overrides_mean_the_same(words: list[str], tmp_path: Path) -> None:
    made = import_words([*LINE, *words])

    spec = composed(made.text, tmp_path / "conf")

    assert spec == compose(made.overrides, conf_dirs=())
    assert (spec.model.id, spec.backend.name, spec.backend.options.num_cores) == ("org/name", "qaic", 14)


def test_text_stays_what_was_typed(tmp_path: Path) -> None:
    made = import_words([*LINE, "--prompt", 'one "two"|${model.path}|\\'])

    assert composed(made.text, tmp_path / "conf").prompts == ('one "two"', "${model.path}", "\\")


def test_what_is_left_out_is_said_and_a_token_is_written_nowhere() -> None:
    words = ["--hf-token", "hunter2", "--hf_token=hunter3", "--cache-dir", "d", "--dynamo", "-sdp", "--unheard-of", "7"]

    made = import_words([*LINE, *words])

    assert "hunter" not in made.text + " ".join((*made.overrides, *made.notes))
    said = {note.partition(":")[0] for note in made.notes}
    assert said == {"hf_token", "cache_dir", "dynamo", "-sdp", "unheard_of"}
    assert 'extra_args: ["-unheard-of=7"]' in made.text


@pytest.mark.parametrize("named", [True, False])
def test_a_qconfig_says_what_its_specializations_say(named: bool, tmp_path: Path) -> None:
    entries = [
        {"batch_size": 1, "seq_len": 32, "ctx_len": 128, "full_batch_size": 8, "num_logits_to_keep": 1},
        {"batch_size": 4, "seq_len": 4, "ctx_len": 128, "full_batch_size": 8, "num_logits_to_keep": 4},
    ]
    if named:
        symbols = [{name: str(size) for name, size in entry.items()} for entry in entries]
        entries = [{"name": name, "symbols": each} for name, each in zip(("Prefill", "Decode"), symbols, strict=True)]
    compiler = {
        "specializations": entries,
        "mdp_ts_num_devices": 2,
        "aic_num_cores": 14,
        "mxfp6_matmul": True,
        "mos": 1,
    }
    document = {"huggingface_config": {"_name_or_path": "org/name"}, "qpc_config": {"aic_compiler_config": compiler}}
    (tmp_path / "qconfig.json").write_text(json.dumps(document))

    spec = composed(import_words([str(tmp_path / "qconfig.json")]).text, tmp_path / "conf")

    shapes = spec.specialization
    assert (shapes.prefill_seq_len, shapes.ctx_len, shapes.full_batch_size, shapes.kv_cache_batch_size) == (
        32,
        128,
        4,
        8,
    )
    assert (shapes.num_speculative_tokens, spec.device_group.size, spec.quantization.mxfp6_matmul) == ((3,), 2, True)


@pytest.mark.parametrize("words", [["rm", "-rf"], ["python", "-m", "QEfficient.cloud.infr"], ["gone.json"]])
def test_what_is_no_command_line_is_refused(words: list[str]) -> None:
    with pytest.raises(SpecError):
        import_words(words)
