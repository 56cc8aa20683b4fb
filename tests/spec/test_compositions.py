"""What a composed configuration holds, where it came from, and that Hydra itself would compose the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from qeffbuild import paths
from qeffbuild.spec.compose import compose

CONF = paths.resource_dir("conf").resolve()


def test_every_value_knows_where_it_was_written():
    composed = compose(["model=gpt2", "specialization.ctx_len=64"])

    assert composed.origins["specialization.ctx_len"] == "command line"
    assert composed.origins["model.id"] == "conf/model/gpt2.yaml:2"
    assert "specialization.batch_size" not in composed.origins  # a default that nobody wrote


def test_the_choices_are_told_by_group():
    composed = compose(["model=gpt2", "quantization=int8"])

    assert composed.choices["model"] == "gpt2"
    assert composed.choices["quantization"] == "int8"
    assert composed.choices["recipe"] is None


def test_a_recipe_wins_over_defaults_and_the_command_line_over_a_recipe():
    recipe = compose(["recipe=gpt2_int8"])
    changed = compose(["quantization=none", "recipe=gpt2_int8"])

    assert (recipe.choices["model"], recipe.choices["quantization"]) == ("gpt2", "int8")
    assert (changed.choices["model"], changed.choices["quantization"]) == ("gpt2", "none")
    assert recipe.values["prompts"] == ["Hi there!!"]


def test_a_mapping_is_merged_and_a_list_is_replaced():
    composed = compose(["adapters={a: x}", "adapters.b=y", "device_group={devices: [3, 4]}"])

    assert composed.values["adapters"] == {"a": "x", "b": "y"}
    group = composed.values["device_group"]
    assert group == {"devices": [3, 4], "num_devices": None, "mdp_num_partitions": 1, "allow_uneven": False}


def test_a_name_inside_a_mapping_may_hold_a_dot():
    assert compose(["adapters={poems-1.2: x}"]).values["adapters"] == {"poems-1.2": "x"}


def test_references_are_resolved_and_an_escaped_one_is_text():
    composed = compose(["out=results/${model.name}", r"prompts_file='\${x}'"])

    assert composed.values["out"] == "results/demo"
    assert composed.values["prompts_file"] == "${x}"


def test_variables_that_were_read_are_told(monkeypatch):
    monkeypatch.setenv("QEFF_HOME", "/data")

    composed = compose(["out=${oc.env:QEFF_HOME}/x"])

    assert composed.values["out"] == "/data/x"
    assert composed.environment == {"QEFF_HOME": "/data"}


def test_a_users_file_comes_before_the_packaged_one_and_is_told(tmp_path):
    mine = tmp_path / "conf" / "specialization" / "chat.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("ctx_len: 512\n")

    composed = compose([], conf_dirs=[tmp_path / "conf"])

    assert composed.values["specialization"]["ctx_len"] == 512
    assert composed.shadowed == ((mine, CONF / "specialization" / "chat.yaml"),)
    assert mine in composed.files


def test_a_users_own_group_is_added_with_a_plus(tmp_path, refusal):
    file = tmp_path / "conf" / "experiment" / "a.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\ndefaults:\n  - override /model: gpt2\n  - _self_\nruns: 9\n")

    composed = compose(["+experiment=a"], conf_dirs=[tmp_path / "conf"])

    assert (composed.choices["model"], composed.values["runs"]) == ("gpt2", 9)


def test_the_grammar_keeps_quoted_text_whole():
    composed = compose(['prompts=["one, two","it\'s [three] = {four}"]'])

    assert composed.values["prompts"] == ["one, two", "it's [three] = {four}"]


def test_composing_changes_no_earlier_composition():
    first = compose(["prompts=[a]"])
    first.values["prompts"].append("b")

    assert compose(["prompts=[a]"]).values["prompts"] == ["a"]


def test_hydras_own_launcher_is_left_to_hydra():
    assert compose(["hydra/launcher=joblib", "hydra.sweeper.max_batch_size=3"]).values == compose([]).values


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["model=gpt2", "quantization=int8"],
        ["recipe=gpt2_notebook"],
        ["recipe=llama_context_lengths", "specialization=short", "backend.num_cores=8"],
        ["recipe=llama_x4", "~quantization.mxint8_kv_cache", "specialization.ctx_len=2048"],
        ["+quantization.keep=[lm_head*,'a b']", "decoding=sample"],
        ["++specialization.batch_size=2", "specialization={prefill_seq_len: 8}"],
    ],
)
def test_hydras_compose_function_gives_the_same(words):
    ours = compose([word.replace("+quantization", "quantization") for word in words]).values

    assert _with_defaults(_by_hydra(words)) == _with_defaults(ours)


def _by_hydra(words: list[str]) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(hydra_compose("build", words), resolve=True)


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Hydra knows the files only; what no file says has the default of its dataclass."""
    backend = values["backend"]["name"]
    defaults = compose([f"backend={backend}", "~model", "~specialization", "~decoding", "~launch", "~cache"]).values
    merged = OmegaConf.merge(defaults, {"device_group": {"devices": [0]}, "quantization": {"method": "none"}}, values)
    return OmegaConf.to_container(merged)


def test_nothing_is_written_by_composing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    compose(["model=gpt2"], conf_dirs=[])

    assert list(Path.cwd().iterdir()) == []
