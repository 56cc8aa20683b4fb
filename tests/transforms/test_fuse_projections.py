"""Projections of the same value as one product: fewer products, the same answers, no weight stored anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import chain
import pytest

from qeffbuild.errors import ModelError
from qeffbuild.graph.files import load_graph
from qeffbuild.plan import Plan

FUSE = {"name": "fuse_projections"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2"])  # without biases, and with some behind the products
def test_answers_stay_with_four_products_per_layer_instead_of_seven(family: str, tmp_path: Path) -> None:
    fetch, export = chain.exported(family, tmp_path)
    out = chain.transformed(export, tmp_path / "transform", FUSE)
    (said,) = json.loads((out / "transform.json").read_text())["passes"]

    package = chain.packaged(fetch, out, tmp_path)

    assert said == {**FUSE, "products": 2 * 5, "fused": 2 * 2}
    assert not (out / "transform.data").exists()
    assert chain.answers(package) == chain.by_pytorch(chain.reference(fetch))


@pytest.mark.slow
def test_a_model_whose_projections_are_fused_already_is_refused(tmp_path: Path) -> None:
    _, export = chain.exported("gpt2", tmp_path)
    assert load_graph(export / "graph.onnx")

    with pytest.raises(ModelError, match="no two projections of this model read the same value"):
        chain.transformed(export, tmp_path / "transform", FUSE)


def test_the_pass_is_in_the_plan_behind_the_adapters(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of("model=llama", "model.scale=tiny", "transforms.fuse_projections=true", f"adapters.a={tmp_path}")

    assert [said["name"] for said in plan["transform"].params["passes"]] == ["lora", "fuse_projections"]
