from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qeffbuild.actions import check, fetch
from qeffbuild.errors import QeffBuildError
from qeffbuild.executor.work import Work
from qeffbuild.models import DEMO
from qeffbuild.models.manifest import model_facts

PARAMS: dict[str, Any] = {
    "seq_len": [], "trust_remote_code": False, "allow_pickle": False, "allow_nonfinite": False,
    "allow_extended_context": False, "kv_head_replication": 1, "ctx_len": 128, "num_devices": 1,
    "mdp_num_partitions": 1,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo model, to be spoilt."""
    found = tmp_path / "model"
    shutil.copytree(DEMO, found)
    return found


def checked(folder: Path, **params: Any) -> dict[str, Any]:
    fetched, out = folder.parent / "fetched", folder.parent / "checked"
    fetched.mkdir()
    out.mkdir()
    leaves = {"model": folder}
    origin = {"scale": "full", "allow_pickle": False, "trust_remote_code": False}
    fetch.run(Work(name="fetch", params=origin, inputs={}, leaves=leaves, out=fetched))
    asked = {**PARAMS, **params}
    check.run(Work(name="check", params=asked, inputs={"model": fetched}, leaves=leaves, out=out))
    return json.loads((out / "checked.json").read_text())


def refusal(folder: Path, **params: Any) -> QeffBuildError:
    with pytest.raises(QeffBuildError) as caught:
        checked(folder, **params)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the tensors of the folder's checkpoint."""
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(change(tensors) or tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_good_model_passes(folder: Path) -> None:
    said = checked(folder)

    assert said == {"schema": 1, "task": "causal-lm", "parameters": 2_271_360, "nonfinite": [], "tokens": 2048}


def test_the_names_of_the_first_gpt2_pass(folder: Path) -> None:
    """Without the prefix of the base model, and with the causal mask that was once a buffer."""
    import torch

    def older(tensors: dict[str, Any]) -> dict[str, Any]:
        bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        return {**bare, "h.0.attn.bias": torch.ones(1, 1, 8, 8)}

    rewrite(folder, older)

    assert checked(folder)["tokens"] == 2048


@pytest.mark.parametrize("wrong", ["missing", "unexpected", "of another shape"])
def test_weights_that_are_not_the_configurations_are_named(wrong: str, folder: Path) -> None:
    name = "transformer.h.1.mlp.c_fc.bias"

    def spoil(tensors: dict[str, Any]) -> None:
        bias = tensors.pop(name)
        if wrong == "unexpected":
            tensors.update({name: bias, "extra": bias.clone()})
        if wrong == "of another shape":
            tensors[name] = bias[:8]

    rewrite(folder, spoil)

    problem = refusal(folder)
    assert problem.kind == "model.weights"
    assert wrong in problem.message
    assert ("extra" if wrong == "unexpected" else name) in problem.message


def test_a_configuration_of_more_layers_than_the_weights_is_refused(folder: Path) -> None:
    configure(folder, n_layer=2)

    problem = refusal(folder)
    assert problem.kind == "model.weights"
    assert "transformer.h.2." in problem.message


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_none_are_refused_unless_allowed(value: str, folder: Path) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors["transformer.ln_f.bias"][3] = float(value)

    rewrite(folder, spoil)

    problem = refusal(folder)
    assert problem.kind == "model.numeric"
    assert "transformer.ln_f.bias" in problem.message
    assert problem.hint is not None
    assert "model.allow_nonfinite=true" in problem.hint
    shutil.rmtree(folder.parent / "fetched")
    shutil.rmtree(folder.parent / "checked")
    assert checked(folder, allow_nonfinite=True)["nonfinite"] == ["transformer.ln_f.bias"]


def test_a_model_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()

    assert refusal(folder).kind == "model.tokenizer"


def test_a_tokenizer_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": ')

    assert refusal(folder).kind == "model.tokenizer"


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    said = json.loads(path.read_text())
    said["added_tokens"].append({**said["added_tokens"][0], "id": 2048, "content": "<extra>"})
    path.write_text(json.dumps(said))

    problem = refusal(folder)
    assert problem.kind == "model.tokenizer"
    assert "<extra>" in problem.message
    assert "2048" in problem.message


def test_an_end_of_text_beyond_the_vocabulary_is_a_familys_default_and_ends_nothing(folder: Path, caplog: Any) -> None:
    configure(folder, bos_token_id=50256, eos_token_id=50256)

    checked(folder)

    assert "eos_token_id is 50256" in caplog.text
    facts = json.loads((folder.parent / "fetched" / "facts.json").read_text())
    facts["generation_config"] = None
    assert model_facts(facts)["eos_token_id"] == []


def test_what_a_decoder_must_say_is_told_by_its_generation_config_where_it_has_one(folder: Path) -> None:
    configure(folder, forced_bos_token_id=0, forced_eos_token_id=2)
    checked(folder)
    facts = json.loads((folder.parent / "fetched" / "facts.json").read_text())

    by_config, by_both = (
        model_facts({**facts, "generation_config": said}) for said in (None, {"no_repeat_ngram_size": 3})
    )

    assert (by_config["forced_bos_token_id"], by_config["forced_eos_token_id"]) == (0, 2)
    assert by_both["no_repeat_ngram_size"] == 3
    assert "forced_bos_token_id" not in by_both


def test_a_padding_token_beyond_the_vocabulary_is_refused(folder: Path) -> None:
    configure(folder, pad_token_id=5000)

    problem = refusal(folder)
    assert problem.kind in ("model.tokenizer", "model.config")
    assert "pad_token_id" in problem.message


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"ctx_len": 513}, "spec.range"),
        ({"num_devices": 4}, "spec.divides"),
        ({"num_devices": 5, "mdp_num_partitions": 5}, "spec.range"),
    ],
)
def test_a_build_that_does_not_fit_the_model_is_refused(params: dict[str, Any], kind: str, folder: Path) -> None:
    assert refusal(folder, **params).kind == kind
