from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from qeffbuild.actions import fetch
from qeffbuild.errors import ModelError, VerificationError
from qeffbuild.executor.work import Work
from qeffbuild.models import DEMO, Facts, checkpoint, read_facts

FULL = {"scale": "full", "allow_pickle": False, "trust_remote_code": False}


def fetched(out: Path, leaf: Path | None, **params: Any) -> list[float]:
    """Run the action; the fractions that it said."""
    out.mkdir()
    said: list[float] = []
    leaves = {"model": leaf} if leaf else {}
    asked = {**FULL, **params}
    fetch.run(Work(name="fetch", params=asked, inputs={}, leaves=leaves, out=out, progress=lambda f, _: said.append(f)))
    return said


def test_a_folder_is_described_and_its_weights_stay_where_they_are(tmp_path: Path) -> None:
    out = tmp_path / "out"

    fractions = fetched(out, DEMO)

    assert sorted(path.name for path in out.iterdir()) == ["facts.json", "model.json"]
    assert Facts.load(out / "facts.json") == read_facts(DEMO)
    files = json.loads((out / "model.json").read_text())["files"]
    weights = (DEMO / "model.safetensors").read_bytes()
    assert files["model.safetensors"] == {"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)}
    assert sorted(files) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_tiny_model_needs_its_model_type_only(tmp_path: Path) -> None:
    out = tmp_path / "out"

    fetched(out, None, scale="tiny", model_type="llama", seed=0)

    folder = checkpoint(out, None)
    assert Facts.load(out / "facts.json") == read_facts(folder)
    files = json.loads((out / "model.json").read_text())["files"]
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files.keys()
    assert {name: said["size"] for name, said in files.items()} == {
        name: (folder / name).stat().st_size for name in files
    }


def test_a_file_of_the_hubs_cache_must_be_what_the_hub_promised(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in DEMO.glob("*.*s*"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (blobs / digest).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blobs / digest)
    fetched(tmp_path / "good", snapshot)

    weights = (snapshot / "model.safetensors").resolve()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(VerificationError) as caught:
        fetched(tmp_path / "bad", snapshot)
    assert caught.value.kind == "verify.model"
    assert str(weights) in str(caught.value.hint)


def pickled(folder: Path, content: Any) -> Path:
    import torch

    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DEMO / name).read_bytes())
    torch.save(content, folder / "pytorch_model.bin")
    return folder


def test_allowed_pickles_become_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(DEMO / "model.safetensors")
    tied = {**tensors, "lm_head.weight": tensors["transformer.wte.weight"]}
    leaf = pickled(tmp_path / "model", tied)

    fetched(tmp_path / "out", leaf, allow_pickle=True)

    found = load_file(checkpoint(tmp_path / "out", leaf) / "model.safetensors")
    assert found.keys() == tied.keys()
    assert all(found[name].equal(tied[name]) for name in tied)
    with pytest.raises(ModelError) as caught:
        fetched(tmp_path / "refused", leaf)
    assert caught.value.kind == "model.pickle"


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit(7)",))


def test_a_pickle_that_would_run_code_is_refused_even_when_pickles_are_allowed(tmp_path: Path) -> None:
    leaf = pickled(tmp_path / "model", {"transformer.wte.weight": Evil()})

    with pytest.raises(ModelError) as caught:
        fetched(tmp_path / "out", leaf, allow_pickle=True)

    assert caught.value.kind == "model.pickle"
