"""Equal bytes of a checkpoint are stored once: a head that is the table of words again, and layers that repeat."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chain
import pytest
from safetensors.numpy import load_file, save_file

from qeffbuild.errors import SpecError
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.write import PAGE
from qeffbuild.package import Package
from qeffbuild.plan import Plan

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
GATES = [f"model.layers.{layer}.mlp.gate_proj.weight" for layer in (0, 1)]


@pytest.fixture(scope="module")
def repeating(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """fetch and export of a llama whose untied head equals its table, and one of whose layers has the other's gate."""
    root = tmp_path_factory.mktemp("repeating")
    fetch, export = chain.exported("llama", root)
    file = fetch / "model" / "model.safetensors"
    tensors = load_file(file)
    assert HEAD in tensors, "the tiny llama's head is its own"
    tensors[HEAD], tensors[GATES[1]] = tensors[TABLE].copy(), tensors[GATES[0]].copy()
    save_file(tensors, file, metadata={"format": "pt"})
    return fetch, export


def shared(fetch: Path, export: Path, out: Path) -> Path:
    passes = {"passes": [{"name": "share_weights"}]}
    return chain.step(chain.transform_action, out, passes, {"graph": export, "model": fetch})


def size_of(package: Path) -> int:
    return sum(file.stat().st_size for file in package.glob("*.data"))


@pytest.mark.slow
def test_a_package_has_one_set_of_bytes_and_answers_as_before(repeating: tuple[Path, Path], tmp_path: Path) -> None:
    fetch, export = repeating
    out = shared(fetch, export, tmp_path / "transform")
    said = json.loads((out / "transform.json").read_text())["passes"][0]

    before = chain.packaged(fetch, export, tmp_path / "before")
    package = chain.packaged(fetch, out, tmp_path / "after")

    tensors = load_file(fetch / "model" / "model.safetensors")
    spared = sum(tensors[first].nbytes * len(others) for first, others in said["shared"].items())
    assert said["bytes"] == spared > tensors[TABLE].nbytes
    assert abs(size_of(before) - size_of(package) - spared) < 2 * PAGE  # large tensors begin on a page
    assert chain.answers(package) == chain.by_pytorch(chain.reference(fetch))
    (head,) = (node for node in load_graph(Package.open(package).graph("decoder")).graph if node.op_type == "Gemm")
    assert "Gather" in {user.op_type for user, _ in head.inputs[1].uses()}  # the table of words


def test_what_was_shared_is_told_by_name(repeating: tuple[Path, Path], tmp_path: Path) -> None:
    fetch, export = repeating

    out = shared(fetch, export, tmp_path / "transform")

    found = json.loads((out / "transform.json").read_text())["passes"][0]["shared"]
    names = {frozenset([first, *others]) for first, others in found.items()}
    assert frozenset([TABLE, HEAD]) in names
    assert frozenset(GATES) in names
    stored = load_graph(out / "graph.onnx").graph.initializers
    for first, others in found.items():
        assert {stored[other].const_value.offset for other in others} == {stored[first].const_value.offset}


def test_the_plan_shows_it_last_and_reads_the_weights(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    words = ("transforms.share_weights=true", "transforms.clip_float16=true", f"adapters.a={tmp_path}")

    step = plan_of("model=llama", "model.scale=tiny", *words)["transform"]

    assert [said["name"] for said in step.params["passes"]] == ["lora", "clip_float16", "share_weights"]
    assert step.inputs == {"graph": "export", "model": "fetch"}


@pytest.mark.parametrize("words", [("backend=qnn",), ("model=t5", "model.task=text-seq2seq")])
def test_what_cannot_share_says_so(words: tuple[str, ...], spec_of: Callable[..., Any]) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(*words, "transforms.share_weights=true")

    assert caught.value.message.startswith("transforms.share_weights: ")
