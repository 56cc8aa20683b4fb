"""Every checked-in choice composes and loads, or says clearly what is missing on this machine."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from qeffbuild import paths
from qeffbuild.errors import AbsentError
from qeffbuild.spec.compose import compose
from qeffbuild.spec.documents import read

CONF = paths.resource_dir("conf")
FILES = sorted(file for file in CONF.rglob("*.yaml") if file.parent != CONF)

# What a choice needs beside itself to be a whole build.
COMPANY = {
    "model=hf": ["model.path=here"],
    "quantization=mxfp6": ["backend=qaic"],
    **{f"device_group=x{count}": ["backend=qaic", "model=mpt"] for count in (2, 4, 8, 16)},
}
ABSENT = {"launch=ray": "launch.absent", "launch=slurm": "launch.absent"}
FAMILIES = [
    *("gpt2", "gptj", "codegen", "gpt_bigcode", "mpt", "llama", "mistral", "gemma", "gemma2", "gemma3", "falcon"),
    *(
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "mixtral",
        "qwen3_moe",
        "granite",
        "granitemoe",
        "olmo2",
        "starcoder2",
        "gpt_oss",
    ),
]


def _word(file: Path) -> str:
    return f"{file.parent.name}={file.stem}"


@pytest.mark.parametrize("file", FILES, ids=_word)
def test_every_choice_is_a_build_or_says_what_is_absent(spec_of, file):
    word = _word(file)
    if word in ABSENT:
        with pytest.raises(AbsentError) as caught:
            spec_of(word)
        assert caught.value.kind == ABSENT[word]
        return

    assert spec_of(word, *COMPANY.get(word, [])).backend.name


def test_every_family_is_a_choice_that_can_be_tried_in_seconds(spec_of):
    for family in FAMILIES:
        model = spec_of(f"model={family}", "model.scale=tiny").model
        assert (model.name, model.scale) == (family, "tiny")
        assert model.model_type is not None


@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name == "model"], ids=_word)
def test_a_model_of_the_hub_is_pinned_to_a_whole_commit(file):
    said = read(file, file.name).values
    if said.get("id") is None:  # the demo comes with the package, hf is what the user names
        return

    assert re.fullmatch("[0-9a-f]{40}", said["revision"])


def test_the_default_build_is_the_demo_on_this_machine(spec_of):
    spec = spec_of()

    recipe = spec_of("recipe=demo")
    assert replace(spec, decoding=recipe.decoding) == recipe  # which samples, so that it does not repeat itself
    assert (spec.model.name, spec.backend.name) == ("demo", "onnxruntime")
    assert spec.model.path == str(paths.HERE / "models" / "demo")


def test_another_folder_is_not_taken_for_the_demo(spec_of):
    model = spec_of("model.path=here", "specialization.ctx_len=4096").model

    assert (model.path, model.max_position_embeddings, model.num_key_value_heads) == ("here", None, None)


def test_the_notebooks_are_recipes(spec_of):
    gpt2 = spec_of("recipe=gpt2_notebook")
    mpt = spec_of("recipe=mpt_notebook")

    assert (gpt2.model.id, gpt2.backend.options.num_cores, gpt2.prompts) == (
        "openai-community/gpt2",
        16,
        ("Hi there!!",),
    )
    assert (mpt.model.id, mpt.backend.options.num_cores) == ("mosaicml/mpt-7b", 16)


def test_every_group_of_the_root_is_a_folder_and_the_other_way_round():
    groups = {
        key
        for entry in read(CONF / "build.yaml", "build.yaml").values["defaults"]
        if entry != "_self_"
        for key in entry
    }

    assert {group for group in groups if " " not in group} == {file.parent.name for file in FILES}


def test_a_choice_fits_one_glance():
    assert [file.name for file in FILES if len(file.read_text().splitlines()) > 20] == []


def test_hydra_is_told_to_write_nothing():
    hydra = read(CONF / "build.yaml", "build.yaml").values["hydra"]

    assert hydra["output_subdir"] is None
    assert hydra["job"] == {"chdir": False}
    assert hydra["run"]["dir"] == hydra["sweep"]["dir"] == "outputs"
    assert compose([]).values.keys().isdisjoint({"hydra", "defaults", "recipe"})
